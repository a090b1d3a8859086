// npm run doctor [-- PRESET]: looks whether presets can run on this machine, and says what to do where they cannot.
// 0: all is well. 1: something is not. 2: that cannot be told.
import { join } from 'node:path'
import { kitTool, readInput, readSettings, UsageError } from './kit-tool.mjs'
import { ROOT } from './setup.mjs'

const USAGE = `npm run doctor [-- MODEL/KIND]
  Of all presets: are image, model and secrets there? Of the one that is named also: does a container reach the GPU, and does its worker
  do a task and follow the protocol? With the settings of the service that would run here.
  --input JSON|FILE.json        what that worker is given to do; {} unless told`
const options = { input: { type: 'string', default: '{}' } }

await kitTool({ usage: USAGE, options }, async (kit, { values, positionals, signal }) => {
  if (positionals.length > 1) throw new UsageError('Name one preset, or none.')
  const settings = await readSettings()
  if (settings.dockerHost !== null) process.env.DOCKER_HOST = settings.dockerHost
  const { presetsFile: file, modelsDir, volumeRoots, secretRoots, secretEnvPrefix } = settings
  const isWell = await kit.examine({
    ...{ file, modelsDir, volumeRoots, secretRoots, secretEnvPrefix, signal },
    workersDir: settings.workersDir ?? join(ROOT, 'workers'),
    env: process.env,
    presetId: positionals[0] ?? null,
    input: await readInput(values.input),
    print: (line) => console.log(line),
  })
  process.exitCode = isWell ? 0 : 1
})
