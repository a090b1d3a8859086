// The engine's process. Its addon loads into the runtime Bare only, so this is no program for Node.js. Commands come and events go over descriptor 3;
// standard output has the progress bars of the engine.
import { kill, pid } from 'bare-os'
import Pipe from 'bare-pipe'
import { ImgStableDiffusion } from '@qvac/diffusion-cpp'
import { setLogger } from '@qvac/diffusion-cpp/addonLogging'
import type { Command, Job, Said } from './messages.ts'

/** Of the engine: what it says of itself, and neither what it is asked nor each of its computations. */
const VERBOSITY = 2
/** How long what it logs is on its way, at most. */
const LOG_MS = 100

const pipe = new Pipe(3)
let model: ImgStableDiffusion | null = null
let isPainting = false
let isCancelled = false

setLogger((priority, text) => {
  say({ said: 'log', isError: priority === 0, text: text.trimEnd() })
})
// Nobody needs it any more. The engine's threads would keep it from ending by itself.
pipe.on('end', die).on('close', die).on('error', die)
readLines((line) => {
  void obey(JSON.parse(line) as Command).catch((error: unknown) => {
    // What it has logged of it is still on its way.
    setTimeout(() => {
      say({ said: 'failed', message: error instanceof Error ? error.message : String(error) })
    }, LOG_MS)
  })
})

async function obey(message: Command): Promise<void> {
  switch (message.command) {
    case 'load':
      await load(message)
      say({ said: 'loaded' })
      return
    case 'paint':
      isPainting = true
      isCancelled = false
      try {
        await paint(message.job)
      } finally {
        isPainting = false
      }
      return
    case 'cancel':
      isCancelled = isPainting
      if (isCancelled) await model?.cancel()
  }
}

async function load({ model: file, onGpu, threads }: Extract<Command, { command: 'load' }>): Promise<void> {
  model = new ImgStableDiffusion({
    files: { model: file },
    config: {
      threads,
      verbosity: VERBOSITY,
      // Without `backend` it would go on with the CPU where it finds no GPU. Flash attention makes a CPU three times slower.
      ...(onGpu ? { device: 'gpu', backend: 'vulkan0' } : { device: 'cpu', diffusion_fa: false }),
    },
  })
  await model.load()
}

async function paint({ init, ...job }: Job): Promise<void> {
  if (model === null) throw new Error('there is no model')
  const images: Uint8Array[] = []
  const response = await model.run({
    ...job,
    ...(init !== null && { init_image: Buffer.from(init.image, 'base64'), strength: init.strength }),
  })
  response.onUpdate((update) => {
    if (typeof update !== 'string') {
      images.push(update)
      return
    }
    const { step, total } = JSON.parse(update) as { step: number; total: number }
    say({ said: 'step', step, steps: total })
    // A cancel that came while the engine had not quite begun is forgotten when it begins.
    if (isCancelled) void model?.cancel()
  })
  await response.await()
  const [image] = images
  if (image === undefined) throw new Error('the engine has made no image')
  say({ said: 'painted', png: Buffer.from(image).toString('base64') })
}

function say(message: Said): void {
  pipe.write(`${JSON.stringify(message)}\n`)
}

function readLines(onLine: (line: string) => void): void {
  let pieces: Buffer[] = []
  pipe.on('data', (bytes) => {
    let rest = bytes
    for (let end = rest.indexOf(10); end !== -1; end = rest.indexOf(10)) {
      onLine(Buffer.concat([...pieces, rest.subarray(0, end)]).toString())
      pieces = []
      rest = rest.subarray(end + 1)
    }
    // A copy: what was read lies in a buffer that is read into again.
    pieces.push(Buffer.from(rest))
  })
}

function die(): void {
  kill(pid(), 'SIGKILL')
}
