// npm run run-worker -- CATEGORY/NAME | --image IMAGE: gives a worker one task, without the service, and prints its events.
// 0: the task was completed. 1: it was not. 2: the worker could not be started.
import { resolve } from 'node:path'
import { CWD, kitTool, onlyArgument, readInput, readVariables, UsageError } from './kit-tool.mjs'
import { ROOT } from './setup.mjs'

const USAGE = `npm run run-worker -- CATEGORY/NAME | --image IMAGE
  --local                       the package's local command instead of its image
  --input JSON|FILE.json        {} unless told
  --env NAME=VALUE              as in a preset's env_vars; more than once
  --models FOLDER               what MODEL_PATH points at
  --file FILE                   a file that the task is given; more than once
  --gpu ID                      a GPU that it holds, as nvidia-smi -L calls it; more than once
  --output FOLDER               where its artifacts are copied to`
const options = {
  image: { type: 'string' },
  local: { type: 'boolean', default: false },
  input: { type: 'string', default: '{}' },
  env: { type: 'string', multiple: true, default: [] },
  models: { type: 'string' },
  file: { type: 'string', multiple: true, default: [] },
  gpu: { type: 'string', multiple: true, default: [] },
  output: { type: 'string' },
}

await kitTool({ usage: USAGE, options }, async (kit, { values, positionals, signal }) => {
  const isCompleted = await kit.runWorker({
    subject: await subjectOf(kit, values, positionals),
    input: await readInput(values.input),
    env: readVariables(values.env),
    modelsDir: folderOf(values.models),
    files: values.file.map((file) => resolve(CWD, file)),
    gpus: kit.gpusOf(values.gpu),
    outputDir: folderOf(values.output),
    print: (line) => console.log(line),
    signal,
  })
  process.exitCode = isCompleted ? 0 : 1
})

function folderOf(value) {
  return value === undefined ? null : resolve(CWD, value)
}

async function subjectOf(kit, { image, local }, positionals) {
  if (image !== undefined) {
    if (positionals.length > 0 || local) throw new UsageError('--image stands alone.')
    return { kind: 'image', image, command: [] }
  }
  const found = await kit.openPackage(ROOT, onlyArgument(positionals, 'a worker package or an --image'))
  return kit.subjectOf(found, local)
}
