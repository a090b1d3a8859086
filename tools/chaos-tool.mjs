// What `npm run chaos` and `npm run soak` have in common.
import { parseArgs } from 'node:util'
import { buildApi } from './build-api.mjs'
import { prepare, SetupError } from './setup.mjs'

const RUNNERS = ['docker', 'process']

/**
 * Reads the arguments, makes ready and runs; the exit code says whether every promise was kept.
 * @param {{ minutes: string }} defaults
 * @param {(tools: typeof import('./chaos/src/index.ts'), options: import('./chaos/src/index.ts').ChaosOptions) => Promise<boolean>} run
 */
export async function runTool(defaults, run) {
  const { values } = parseArgs({
    options: {
      minutes: { type: 'string', default: defaults.minutes },
      // Every run is another one, and can be had again.
      seed: { type: 'string', default: Date.now().toString(36) },
      runner: { type: 'string', default: 'docker' },
    },
  })
  const minutes = Number(values.minutes)
  if (!(minutes > 0) || !RUNNERS.includes(values.runner)) {
    console.error(`--minutes is a number above 0, --runner one of ${RUNNERS.join(', ')}`)
    process.exitCode = 2
    return
  }
  try {
    await prepare()
  } catch (error) {
    if (!(error instanceof SetupError)) throw error
    console.error(error.message)
    process.exitCode = 1
    return
  }
  await buildApi()
  const { tsImport } = await import('tsx/esm/api')
  const tools = await tsImport('./chaos/src/index.ts', import.meta.url)
  const { seed, runner } = values
  const isWhole = await run(tools, { minutes, seed, runner, print: (line) => console.log(line) })
  process.exitCode = isWhole ? 0 : 1
}
