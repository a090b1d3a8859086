// Does what its input asks for; `behaviours.py` does the same in the other language.
import { spawnSync } from 'node:child_process'
import { readFileSync, writeFileSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { InvalidInput, serve, TaskFailed } from '@gpu-service/worker'

class Broken extends Error {
  name = 'Broken'
}

async function load(progress) {
  if (process.env.LOAD === 'fail') throw new Broken('no such weights')
  progress(0.5, 'Halfway')
  if (process.env.LOAD === 'hang') await sleep(3_600_000)
  return 'the model'
}

/** V8 itself prints a line on descriptor 1 for each collection that it traces. */
function contents(files) {
  return files.map((file) => ({ ...file, content: readFileSync(file.path, 'utf8') }))
}

function printNatively() {
  setFlagsFromString('--expose-gc')
  setFlagsFromString('--trace-gc')
  runInNewContext('gc')()
  setFlagsFromString('--no-trace-gc')
}

/** @type {Record<string, (task: import('@gpu-service/worker').Task) => import('@gpu-service/worker').Output>} */
const BEHAVIOURS = {
  async *stream({ input }) {
    yield* input.pieces
    return input.value
  },
  text: ({ input }) => input.text,
  result: ({ input }) => input.value,
  nothing: () => undefined,
  model: ({ model }) => model,
  input: ({ input }) => ({ input }),
  files: ({ files }) => contents(files),
  previous: ({ previous }) => contents(previous),
  'need a file'({ files }) {
    if (files.length === 0) throw new InvalidInput('there is no file')
    return files[0].name
  },
  async *endless(task) {
    try {
      for (;;) {
        yield 'on '
        await sleep(5, undefined, { signal: task.signal })
      }
    } finally {
      task.log('cleaned up')
    }
  },
  async patient(task) {
    task.progress(1)
    while (!task.signal.aborted) await sleep(5)
    return 'too late'
  },
  everything(task) {
    task.status('decoding', { message: 'Latents', progress: 0.25 })
    task.progress(3, { total: 4, unit: 'steps', message: 'Nearly' })
    task.log('careful', 'warning')
    task.metrics({ step: 1, loss: NaN })
    task.usage({ prompt_tokens: 3, gpu_memory_mb: 10 })
    task.save('notes/a.txt', 'héllo', { mediaType: 'text/plain' })
    writeFileSync(join(task.outputDir, 'b.bin'), Buffer.of(0, 1))
    task.artifact('b.bin', { name: 'Second' })
    task.emit('sampled', { temperature: 0.5, seq: 99, task_id: 'another' })
    return undefined
  },
  *noisy() {
    yield 'before '
    console.log('printed')
    process.stdout.write('without a newline')
    writeSync(1, 'written to the descriptor\n')
    spawnSync('echo', ['by another program'], { stdio: 'inherit' })
    printNatively()
    yield 'after'
  },
  late(task) {
    setTimeout(() => task.log('too late'), 50)
    return undefined
  },
  refuse() {
    throw new InvalidInput('the prompt is missing')
  },
  'fail with code'() {
    throw new TaskFailed('it does not fit', 'CUDA_OUT_OF_MEMORY')
  },
  *crash() {
    yield 'so far '
    throw new Broken('a tensor is missing')
  },
  escape(task) {
    task.artifact('../../etc/passwd')
    return undefined
  },
  overwrite(task) {
    task.save('../outside.txt', 'x')
    return undefined
  },
  *number() {
    yield 7
  },
  'long result': () => ['x'.repeat(2_000_000)],
  repeated: ({ input }) => input.text.repeat(input.times),
  uncaught() {
    setImmediate(() => {
      throw new Broken('nobody waits for this')
    })
    return sleep(3_600_000)
  },
  *busy() {
    for (;;) yield 'on '
  },
  die() {
    process.kill(process.pid, 'SIGKILL')
    return sleep(3_600_000)
  },
}

await serve({
  load,
  run: (task) => BEHAVIOURS[task.input?.do ?? 'input'](task),
  slots: Number(process.env.SLOTS ?? '1'),
})
