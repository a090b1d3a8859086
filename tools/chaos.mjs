// npm run chaos: breaks whatever can be broken while tasks run, and checks that every task ends as it must, with every event exactly once.
//   npm run chaos -- [--minutes N] [--seed S] [--runner docker|process]
import { parseArgs } from 'node:util'
import { tsImport } from 'tsx/esm/api'
import { buildApi } from './build-api.mjs'
import { prepare } from './setup.mjs'

const { values } = parseArgs({
  options: {
    minutes: { type: 'string', default: '5' },
    seed: { type: 'string', default: Date.now().toString(36) },
    runner: { type: 'string', default: 'docker' },
  },
})
await prepare()
await buildApi()
const { runChaos } = await tsImport('./chaos/src/index.ts', import.meta.url)
const { seed, runner } = values
const isWhole = await runChaos({
  minutes: Number(values.minutes),
  seed,
  runner,
  print: (line) => console.log(line),
})
process.exitCode = isWhole ? 0 : 1
