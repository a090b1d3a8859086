import type { IncomingMessage } from 'node:http'
import type { Logger, StartFailure } from '@gpu-service/tasks'
import { isRecord } from './container-info.ts'
import { type Engine, EngineError } from './engine.ts'
import { imageNotFound } from './failures.ts'

const PULL_MS = 2 * 60 * 60 * 1_000
/** How long a pull may say nothing. */
const SILENCE_MS = 5 * 60 * 1_000
const MAX_LINE_LENGTH = 64 * 1024

export interface Images {
  /** Why an image is not there; `null`: it is. With `missing` it is pulled first; callers that want the same one share one pull. */
  ensure(image: string, pull: 'never' | 'missing'): Promise<StartFailure | null>
}

export function createImages(engine: Engine, logger: Logger): Images {
  const pulls = new Map<string, Promise<StartFailure | null>>()

  async function has(image: string): Promise<boolean> {
    try {
      await engine.call('GET', `/images/${image}/json`)
      return true
    } catch (error) {
      if (error instanceof EngineError && error.status === 404) return false
      throw error
    }
  }

  async function pullOnce(image: string): Promise<StartFailure | null> {
    // Another pull may have ended since it was missed.
    if (await has(image)) return null
    logger.info({ image }, 'pulling an image')
    let problem: string | null
    try {
      const progress = await engine.stream('POST', '/images/create', {
        query: reference(image),
        timeoutMs: SILENCE_MS,
        signal: AbortSignal.timeout(PULL_MS),
      })
      problem = await readProgress(progress)
    } catch (error) {
      if (!(error instanceof EngineError) || error.away) throw error
      problem = error.message
    }
    // Asked in any case: it is what counts, and an engine that went away meanwhile is no failed pull.
    const isThere = await has(image)
    if (problem === null && isThere) {
      logger.info({ image }, 'pulled an image')
      return null
    }
    return {
      status: 'failed',
      code: 'PULL_FAILED',
      message: `The image ${image} could not be pulled: ${problem ?? 'the pull ended without it.'}`,
      hint: `Try it by hand: docker pull ${image}`,
    }
  }

  return {
    async ensure(image, pull) {
      if (pull === 'never') return (await has(image)) ? null : imageNotFound(image)
      const pulling = pulls.get(image) ?? pullOnce(image).finally(() => pulls.delete(image))
      pulls.set(image, pulling)
      return pulling
    },
  }
}

/** A pull without a tag would fetch every tag there is. */
function reference(image: string): Record<string, string> {
  const digestAt = image.indexOf('@')
  if (digestAt >= 0) return { fromImage: image.slice(0, digestAt), tag: image.slice(digestAt + 1) }
  const colonAt = image.lastIndexOf(':')
  if (colonAt > image.lastIndexOf('/'))
    return { fromImage: image.slice(0, colonAt), tag: image.slice(colonAt + 1) }
  return { fromImage: image, tag: 'latest' }
}

/** Reads a pull's progress to its end: one JSON object per line. What it gives is why the pull failed; `null`: it says nothing of a failure. */
async function readProgress(progress: IncomingMessage): Promise<string | null> {
  const silence = setTimeout(() => {
    progress.destroy(new Error(`nothing was heard of it for ${SILENCE_MS} ms`))
  }, SILENCE_MS)
  const decoder = new TextDecoder()
  let rest = ''
  try {
    const chunks: AsyncIterable<unknown> = progress
    for await (const chunk of chunks) {
      if (!Buffer.isBuffer(chunk)) continue
      silence.refresh()
      const lines = (rest + decoder.decode(chunk, { stream: true })).split('\n')
      rest = lines.pop() ?? ''
      for (const line of [...lines, ...(rest.length > MAX_LINE_LENGTH ? [rest] : [])]) {
        const problem = problemIn(line)
        if (problem !== null) return problem
      }
    }
    return problemIn(rest)
  } catch (error) {
    return error instanceof Error ? error.message : String(error)
  } finally {
    clearTimeout(silence)
    progress.destroy()
  }
}

function problemIn(line: string): string | null {
  if (line.trim() === '') return null
  try {
    const step: unknown = JSON.parse(line)
    if (!isRecord(step)) return 'its progress cannot be read'
    return typeof step['error'] === 'string' ? step['error'] : null
  } catch {
    return 'its progress cannot be read'
  }
}
