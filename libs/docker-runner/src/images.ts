import type { Logger, PullProgress, StartFailure, StartOptions } from '@gpu-service/tasks'
import type { Credentials } from './credentials.ts'
import { type Engine, EngineError } from './engine.ts'
import { imageNotFound, startAbandoned } from './failures.ts'
import { createPullState, readPull, SILENCE_MS } from './pull-progress.ts'

const PULL_MS = 2 * 60 * 60 * 1_000
/** The least between two times that the waiters of a pull are told of it. */
const TELL_MS = 1_000

export interface Images {
  /**
   * Why an image is not there; `null`: it is. With `missing` it is pulled first; callers that want the same one share one pull, which is
   * cancelled when none of them waits any more.
   */
  ensure(image: string, pull: 'never' | 'missing', options: StartOptions): Promise<StartFailure | null>
}

interface Pull {
  readonly outcome: Promise<StartFailure | null>
  readonly waiters: Set<StartOptions>
  readonly stop: AbortController
}

export function createImages(engine: Engine, credentials: Credentials, logger: Logger): Images {
  const pulls = new Map<string, Pull>()

  async function has(image: string, signal?: AbortSignal): Promise<boolean> {
    try {
      await engine.call('GET', `/images/${image}/json`, { ...(signal && { signal }) })
      return true
    } catch (error) {
      if (error instanceof EngineError && error.status === 404) return false
      throw error
    }
  }

  async function pullOnce(
    image: string,
    signal: AbortSignal,
    tell: (progress: PullProgress) => void,
  ): Promise<StartFailure | null> {
    // Another pull may have ended since it was missed.
    if (await has(image, signal)) return null
    const shown = await credentials.of(image)
    logger.info({ image, withCredentials: shown !== null }, 'pulling an image')
    const state = createPullState(image)
    let problem: string | null
    try {
      const answer = await engine.stream('POST', '/images/create', {
        query: reference(image),
        timeoutMs: SILENCE_MS,
        signal: AbortSignal.any([signal, AbortSignal.timeout(PULL_MS)]),
        ...(shown && { credentials: shown }),
      })
      problem = await readPull(answer, (step) => {
        state.heard(step)
        tell(state.progress())
      })
    } catch (error) {
      if (!(error instanceof EngineError) || error.away) throw error
      problem = error.message
    }
    // Asked in any case: it is what counts, and an engine that went away meanwhile is no failed pull.
    const isThere = await has(image, signal)
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

  function begin(image: string): Pull {
    const waiters = new Set<StartOptions>()
    const stop = new AbortController()
    const teller = createTeller(waiters, logger)
    const outcome = pullOnce(image, stop.signal, (progress) => {
      teller.tell(progress)
    }).finally(() => {
      teller.end()
      if (pulls.get(image) === pull) pulls.delete(image)
    })
    const pull = { outcome, waiters, stop }
    // Nobody hears of what becomes of it once all have gone.
    outcome.catch(() => undefined)
    pulls.set(image, pull)
    return pull
  }

  return {
    async ensure(image, pull, options) {
      if (pull === 'never') return (await has(image)) ? null : imageNotFound(image)
      const { signal } = options
      if (signal?.aborted === true) return startAbandoned()
      const shared = pulls.get(image) ?? begin(image)
      // One of its own, for callers may share their options.
      const waiter = { ...options }
      shared.waiters.add(waiter)
      let onAbort: () => void = () => undefined
      const left = new Promise<StartFailure>((resolve) => {
        onAbort = () => {
          resolve(startAbandoned())
        }
      })
      signal?.addEventListener('abort', onAbort)
      try {
        return await Promise.race([shared.outcome, left])
      } finally {
        signal?.removeEventListener('abort', onAbort)
        shared.waiters.delete(waiter)
        if (shared.waiters.size === 0 && pulls.get(image) === shared) {
          logger.info({ image }, 'cancelling a pull that nobody waits for any more')
          pulls.delete(image)
          shared.stop.abort()
        }
      }
    },
  }
}

/** Tells all waiters of a pull the newest of it, at once or when the time has come again. */
function createTeller(
  waiters: ReadonlySet<StartOptions>,
  logger: Logger,
): { tell(progress: PullProgress): void; end(): void } {
  let pause: NodeJS.Timeout | null = null
  let news: PullProgress | null = null

  function tell(progress: PullProgress): void {
    if (pause) {
      news = progress
      return
    }
    pause = setTimeout(() => {
      pause = null
      if (news) tell(news)
    }, TELL_MS)
    news = null
    for (const { onPull } of waiters) {
      try {
        onPull?.(progress)
      } catch (error) {
        logger.error({ error }, 'somebody who was told of a pull failed')
      }
    }
  }

  return {
    tell,
    end() {
      if (pause) clearTimeout(pause)
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
