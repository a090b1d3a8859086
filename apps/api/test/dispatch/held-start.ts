import type { PullProgress, StartFailure, StartOptions, StartResult } from '@gpu-service/tasks'
import { Deferred } from './deferred.ts'

/** What holds a start up. While its image is pulled, nobody wanting the worker any more ends it; while it is being made, nothing does. */
export type HeldPhase = 'pulling' | 'making'

/** A start that waits for the test. */
export class HeldStart {
  readonly #phase: HeldPhase
  readonly #reached = new Deferred<undefined>()
  readonly #answer = new Deferred<StartResult | null>()
  #onPull: StartOptions['onPull']

  constructor(phase: HeldPhase) {
    this.#phase = phase
  }

  /** Resolves when the start has been asked for. */
  get reached(): Promise<undefined> {
    return this.#reached.promise
  }

  /** The worker starts. */
  release(): void {
    this.#answer.resolve(null)
  }

  refuse(failure: StartFailure): void {
    this.#answer.resolve(failure)
  }

  fail(error: Error): void {
    this.#answer.reject(error)
  }

  tellPull(progress: PullProgress): void {
    this.#onPull?.(progress)
  }

  /** For the runner: what comes of the start; `null`: a worker. */
  wait(signal: AbortSignal | undefined, onPull: StartOptions['onPull']): Promise<StartResult | null> {
    this.#onPull = onPull
    const abandon = (): void => {
      const message = 'Nobody wants it any more.'
      this.refuse({ status: 'failed', code: 'START_ABANDONED', message, hint: '' })
    }
    if (this.#phase === 'pulling') {
      if (signal?.aborted === true) abandon()
      signal?.addEventListener('abort', abandon, { once: true })
    }
    this.#reached.resolve(undefined)
    return this.#answer.promise
  }
}
