import type { IncomingMessage } from 'node:http'
import type { PullProgress } from '@gpu-service/tasks'
import { isRecord } from './container-info.ts'

/** How long a pull may say nothing. */
export const SILENCE_MS = 5 * 60 * 1_000
const MAX_LINE_LENGTH = 64 * 1024
/** Twice what an image can have; more are not counted. */
const MAX_LAYERS = 256
const MAX_ID_LENGTH = 128

type Step = Readonly<Record<string, unknown>>

interface Layer {
  /** Compressed bytes; `null`: not said yet. */
  total: number | null
  downloaded: number
  /** Counted in compressed bytes too. */
  extracted: number
  /** All of it has been downloaded, or none of it needs to be. */
  isFetched: boolean
  isDone: boolean
}

/** What the steps of one image's pull amount to. */
export interface PullState {
  heard(step: Step): void
  progress(): PullProgress
}

export function createPullState(image: string): PullState {
  const layers = new Map<string, Layer>()

  function layerOf(id: string): Layer | undefined {
    const known = layers.get(id)
    if (known || layers.size === MAX_LAYERS || id.length > MAX_ID_LENGTH) return known
    const layer: Layer = { total: null, downloaded: 0, extracted: 0, isFetched: false, isDone: false }
    layers.set(id, layer)
    return layer
  }

  return {
    heard({ id, status, progressDetail }) {
      // The first step has the tag for its id.
      if (typeof id !== 'string' || typeof status !== 'string' || status.startsWith('Pulling from ')) return
      const layer = layerOf(id)
      if (!layer) return
      const { current, total } = isRecord(progressDetail) ? progressDetail : {}
      // An extraction may be counted in seconds, without a total.
      if (isSize(current) && isSize(total) && total > 0) {
        layer.total = total
        if (status === 'Downloading') layer.downloaded = Math.min(current, total)
        if (status === 'Extracting') layer.extracted = Math.min(current, total)
      }
      layer.isDone = status === 'Pull complete' || status === 'Already exists'
      layer.isFetched = layer.isDone || status === 'Download complete' || status === 'Extracting'
    },
    progress() {
      const all = [...layers.values()]
      if (all.length === 0) return { message: `Pulling ${image}`, progress: null }
      const done = all.filter(({ isDone }) => isDone).length
      return {
        message: `Pulling ${image}: ${done} of ${all.length} ${all.length === 1 ? 'layer' : 'layers'}`,
        progress: shareOf(all),
      }
    },
  }
}

/** Downloading counts for as much as extracting. Layers that were there already count for nothing. */
function shareOf(layers: readonly Layer[]): number | null {
  let [bytes, total] = [0, 0]
  for (const layer of layers) {
    if (layer.total === null) {
      if (layer.isFetched) continue
      return null
    }
    total += 2 * layer.total
    bytes += layer.isFetched ? layer.total : layer.downloaded
    bytes += layer.isDone ? layer.total : layer.extracted
  }
  return total === 0 ? null : bytes / total
}

function isSize(value: unknown): value is number {
  return typeof value === 'number' && Number.isFinite(value) && value >= 0
}

/** Reads a pull's steps to their end: one JSON object per line. What it gives is why the pull failed; `null`: nothing was said of a failure. */
export async function readPull(answer: IncomingMessage, heard: (step: Step) => void): Promise<string | null> {
  const silence = setTimeout(() => {
    answer.destroy(new Error(`nothing was heard of it for ${SILENCE_MS} ms`))
  }, SILENCE_MS)
  const decoder = new TextDecoder()
  let rest = ''
  try {
    const chunks: AsyncIterable<unknown> = answer
    for await (const chunk of chunks) {
      if (!Buffer.isBuffer(chunk)) continue
      silence.refresh()
      const lines = (rest + decoder.decode(chunk, { stream: true })).split('\n')
      rest = lines.pop() ?? ''
      for (const line of [...lines, ...(rest.length > MAX_LINE_LENGTH ? [rest] : [])]) {
        const problem = problemIn(line, heard)
        if (problem !== null) return problem
      }
    }
    return problemIn(rest, heard)
  } catch (error) {
    return error instanceof Error ? error.message : String(error)
  } finally {
    clearTimeout(silence)
    answer.destroy()
  }
}

function problemIn(line: string, heard: (step: Step) => void): string | null {
  if (line.trim() === '') return null
  let step: unknown
  try {
    step = JSON.parse(line)
  } catch {
    return 'its progress cannot be read'
  }
  if (!isRecord(step)) return 'its progress cannot be read'
  if (typeof step['error'] === 'string') return step['error']
  heard(step)
  return null
}
