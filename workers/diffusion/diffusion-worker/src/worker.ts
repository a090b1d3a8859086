import { randomInt } from 'node:crypto'
import { readFile, stat } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { InvalidInput, type ReportLoading, serve, type Task } from '@gpu-service/worker'
import { type Engine, openEngine } from './engine.ts'
import { imageSize, type Size } from './image-size.ts'
import { inputFor, MOST_SIDE, type Order, readOrder, SEEDS, SIDE_STEP } from './order.ts'
import { withTexts } from './png.ts'
import { readSettings } from './settings.ts'

const SOFTWARE = 'diffusion-worker with @qvac/diffusion-cpp 0.25.0'
const MAX_INIT_BYTES = 32 * 1024 * 1024
/** What the engine says of an image that it cannot begin with. */
const NO_IMAGE = 'img2img: failed to decode init_image'

const settings = readSettings(process.env)
const here = import.meta.dirname

await serve({ load, run: makeImages })

async function load(report: ReportLoading): Promise<Engine> {
  const { modelFile, onGpu } = settings
  const found = await stat(modelFile).catch(() => null)
  if (found?.isFile() !== true)
    throw new Error(`MODEL_PATH does not name a model file: there is none at "${modelFile}"`)
  const program = [
    join(here, 'node_modules/bare-runtime-linux-x64/bin/bare'),
    join(here, 'painter.cjs'),
  ] as const
  return openEngine({ program, ...settings }, report).catch((error: unknown) => {
    if (!onGpu || !(error instanceof Error)) throw error
    throw new Error(
      `the preset gives a GPU, and the engine cannot load the model there: take the image diffusion-worker:vulkan (or :cuda), or a preset with \`gpus: {count: 0}\`; ${error.message}`,
      { cause: error },
    )
  })
}

interface Made extends Size {
  readonly file: string
  readonly seed: number
}

async function makeImages(task: Task<Engine>): Promise<{ readonly images: readonly Made[] }> {
  const order = readOrder(
    task.input,
    task.files.map(({ name }) => name),
  )
  const { size, init } = await beginning(task, order)
  const firstSeed = order.seed ?? randomInt(SEEDS)
  const images: Made[] = []
  let stepsDone = 0
  try {
    while (images.length < order.count) {
      const seed = (firstSeed + images.length) % SEEDS
      const before = stepsDone
      const png = await task.model
        .paint(
          {
            prompt: order.prompt,
            negative_prompt: order.negativePrompt,
            ...size,
            steps: order.steps,
            cfg_scale: order.guidance,
            sampling_method: order.sampler,
            seed,
            init,
          },
          task.signal,
          (step, steps) => {
            if (step === 0 || task.signal.aborted) return
            stepsDone = before + step
            task.progress(stepsDone, { total: steps * order.count, unit: 'steps' })
          },
        )
        .catch((error: unknown) => {
          const isUnreadable = error instanceof Error && error.message.startsWith(NO_IMAGE)
          if (order.start.kind === 'noise' || !isUnreadable) throw error
          throw new InvalidInput(`"${order.start.file}" is no image that can be read`, { cause: error })
        })
      const file = `image-${images.length + 1}.png`
      task.save(file, withTexts(png, textsFor(order, seed)), { mediaType: 'image/png' })
      images.push({ file, seed, ...size })
    }
  } finally {
    task.usage({ images: images.length, steps: stepsDone })
  }
  return { images }
}

/** What the images are made from. Throws an `InvalidInput` where that is a file that they cannot be made from. */
async function beginning(
  task: Task<Engine>,
  { start }: Order,
): Promise<{ size: Size; init: { image: string; strength: number } | null }> {
  if (start.kind === 'noise') return { size: { width: start.width, height: start.height }, init: null }
  const file = task.files.find(({ name }) => name === start.file)
  if (file === undefined || file.bytes > MAX_INIT_BYTES)
    throw new InvalidInput(`"${start.file}" is larger than ${MAX_INIT_BYTES / 1024 / 1024} MiB`)
  const image = await readFile(file.path)
  const size = imageSize(image)
  if (size === null) throw new InvalidInput(`"${start.file}" is neither a PNG nor a JPEG`)
  const fits = [size.width, size.height].every(
    (side) => side > 0 && side <= MOST_SIDE && side % SIDE_STEP === 0,
  )
  if (!fits)
    throw new InvalidInput(
      `"${start.file}" is ${size.width}x${size.height}: its sides must be multiples of ${SIDE_STEP}, up to ${MOST_SIDE}`,
    )
  return { size, init: { image: image.toString('base64'), strength: start.strength } }
}

function textsFor(order: Order, seed: number): Readonly<Record<string, string>> {
  return {
    parameters: JSON.stringify(inputFor(order, seed)),
    model: basename(settings.modelFile),
    Software: SOFTWARE,
  }
}
