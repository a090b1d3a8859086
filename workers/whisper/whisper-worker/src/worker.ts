import { stat } from 'node:fs/promises'
import { availableParallelism } from 'node:os'
import { InvalidInput, serve, type Task } from '@gpu-service/worker'
import { type Backend, loadModel, type Model, type NativeSegment } from './engine.ts'
import { readOrder } from './input.ts'
import { type Segment, toSrt, toVtt } from './subtitles.ts'

const BACKENDS: readonly string[] = ['cpu', 'cuda', 'vulkan'] satisfies Backend[]
/** More do not make it faster on most machines. */
const MOST_THREADS = 8

await serve({ load, run: transcribe })

async function load(progress: (share: number, message?: string) => void): Promise<Model> {
  const { MODEL_PATH: file = '', WHISPER_BACKEND: backend = 'cpu' } = process.env
  if (!isBackend(backend)) throw new Error(`WHISPER_BACKEND is one of ${BACKENDS.join(', ')}, not ${backend}`)
  const found = await stat(file).catch(() => null)
  if (found?.isFile() !== true)
    throw new Error(`MODEL_PATH does not name a model file: there is none at "${file}"`)
  progress(0, `Loading ${Math.round(found.size / 1e6)} MB on ${backend}`)
  return loadModel(file, backend)
}

function isBackend(name: string): name is Backend {
  return BACKENDS.includes(name)
}

async function transcribe(task: Task<Model>): Promise<object> {
  const order = readOrder(task.input, task.files)
  const segments: Segment[] = []

  function take(found: readonly NativeSegment[]): void {
    // The engine calls, and has no use for what is thrown.
    if (task.signal.aborted) return
    for (const { text, t0, t1 } of found) {
      const segment = { start: t0 / 1000, end: Math.max(t0, t1) / 1000, text: text.trim() }
      task.emit('segment', segment)
      task.delta(segments.length === 0 ? text.trimStart() : text)
      segments.push(segment)
    }
  }

  const language = await task.model
    .transcribe(
      order.file.path,
      {
        language: order.language,
        translate: order.translate,
        ...(order.prompt !== '' && { prompt: order.prompt }),
        ...(order.beamSize !== null && { beamSize: order.beamSize }),
        temperature: order.temperature,
        temperatureInc: order.temperatureIncrement,
        maxThreads: Number(process.env['THREADS']) || Math.min(availableParallelism(), MOST_THREADS),
        onProgress(percent) {
          if (!task.signal.aborted) task.progress(Math.min(percent, 100), { total: 100, unit: 'percent' })
        },
        onNewSegments: ({ segments: found }) => {
          take(found)
        },
      },
      task.signal,
    )
    .catch((error: unknown) => {
      if (!(error instanceof Error) || !error.message.startsWith('Failed to load audio file')) throw error
      throw new InvalidInput(`"${order.file.name}" is no audio that can be read: WAV, MP3 or FLAC`, {
        cause: error,
      })
    })

  const about = { language, translated: order.translate }
  task.save('transcript.srt', toSrt(segments), { mediaType: 'application/x-subrip' })
  task.save('transcript.vtt', toVtt(segments), { mediaType: 'text/vtt' })
  task.save('transcript.json', JSON.stringify({ ...about, segments }), { mediaType: 'application/json' })
  return { ...about, segments: segments.length }
}
