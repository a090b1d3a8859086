import { delay } from '../clock.ts'
import { insist } from '../insist.ts'
import {
  RunnerError,
  type AssignedGpu,
  type PullProgress,
  type StartFailure,
  type StartResult,
  type WorkerOrder,
} from '../runner.ts'
import { type Secret, secretSourceText } from '../secrets.ts'
import type { Worker } from '../worker.ts'
import { runOrderOf } from './run-order.ts'
import type { Run } from './run.ts'
import type { StopLadder } from './stop-ladder.ts'
import type { WorkerContext } from './worker-life.ts'

const FIRST_RETRY_MS = 150
const LAST_RETRY_MS = 5_000

export interface WorkerStartOptions {
  readonly context: WorkerContext
  readonly worker: Worker
  readonly gpus: readonly AssignedGpu[]
  readonly ladder: StopLadder
  /** The attempts that wait for it, or that it works on. */
  readonly runs: () => readonly Run[]
  /** The runner has it now; `startedAt` is when it began to run. The image's digest is told only by the one who has started it. */
  readonly onStarted: (started: {
    readonly containerId: string
    readonly startedAt: number
    readonly imageDigest?: string | null
  }) => void
  readonly onPull: (progress: PullProgress) => void
}

/** How a worker's beginning went. */
export type Beginning =
  /** It is there (or was): its output can be read. */
  | { readonly kind: 'there' }
  | { readonly kind: 'start-failed'; readonly failure: StartFailure }
  /** The service lets go of its workers. */
  | { readonly kind: 'detached' }

const THERE = { kind: 'there' } as const
const DETACHED = { kind: 'detached' } as const

/** The beginning of a worker's life with this process: it is started, or found again after a restart of the service. Never started twice. */
export class WorkerStart {
  readonly #options: WorkerStartOptions
  /** The engine went away while it was asked to start the worker. */
  #mayHaveStarted = false

  constructor(options: WorkerStartOptions) {
    this.#options = options
  }

  /** Starts a worker whose row has just been written: nothing of it can be there yet. */
  async start(): Promise<Beginning> {
    await this.#learnStops()
    return this.#start()
  }

  /** Finds a worker of an earlier process, or starts it where that process did not come to it. */
  async find(): Promise<Beginning> {
    const { context, worker, onStarted } = this.#options
    const { runner, detach } = context
    await this.#learnStops()
    const found = await this.#insist('look at the worker', () => runner.inspect(worker.name))
    if (found === null || detach.aborted) return DETACHED
    const state = found.value
    switch (state.phase) {
      case 'running':
        onStarted(state)
        return THERE
      case 'exited':
        return THERE
      case 'unknown':
        // One that was there once is read as far as it can be, and is lost.
        return this.#mayBeStarted ? this.#start() : THERE
      case 'created':
        return this.#start()
    }
  }

  /** A cancel may have been recorded before this process could be told of it. */
  async #learnStops(): Promise<void> {
    const { context, worker, ladder, runs } = this.#options
    for (const run of runs()) {
      const row = await this.#insist('read the task', () => context.store.task(run.task.id))
      if (row?.value?.stopReason == null) continue
      run.stopFor(row.value.stopReason, row.value.cancelReason)
      if (worker.mode === 'ONE_OFF') ladder.signal(run.task.spec.timeouts.stopGraceMs)
    }
  }

  get #mayBeStarted(): boolean {
    const { worker, runs } = this.#options
    const { containerId, readyAt, status } = worker
    const isUntouched = containerId === null && readyAt === null && status !== 'STOPPING'
    return isUntouched && runs().every(({ transcript }) => !transcript.isAlive)
  }

  async #start(): Promise<Beginning> {
    const { context, worker, gpus, ladder, runs, onStarted } = this.#options
    const { clock, store, detach, reachable } = context
    const [first] = worker.mode === 'SESSION' ? [] : runs()
    const { id: workerId, name, spec } = worker
    // Once: where the engine went away in the middle, only the same order may follow.
    const secrets = await this.#readSecrets()
    if (!Array.isArray(secrets)) return { kind: 'start-failed', failure: secrets }
    const described = await this.#insist('describe the task to its worker', async () =>
      first === undefined ? null : await runOrderOf(first.task, context),
    )
    if (described === null) return DETACHED
    const order: WorkerOrder = { name, workerId, spec, gpus, secrets, run: described.value }
    const signal = AbortSignal.any([detach, ladder.unwanted])
    for (let waitMs = FIRST_RETRY_MS; ; waitMs = Math.min(waitMs * 2, LAST_RETRY_MS)) {
      if (detach.aborted) return DETACHED
      if (ladder.isStopping) return this.#giveUp()
      const result = await this.#tryStart(order, signal)
      if (result.status === 'started') {
        reachable(true, '')
        const { containerId, imageDigest, startedAt } = result
        onStarted({ containerId, startedAt, imageDigest })
        const record = (): Promise<void> => store.updateWorker(workerId, { containerId, imageDigest })
        return (await this.#insist("record the worker's start", record)) === null ? DETACHED : THERE
      }
      if (result.code === 'START_ABANDONED') continue
      if (result.code !== 'ENGINE_UNAVAILABLE') return { kind: 'start-failed', failure: result }
      reachable(false, `${result.message} ${result.hint}`.trim())
      await delay(clock, waitMs, signal)
    }
  }

  /** The worker's secrets, or why it cannot have them. */
  async #readSecrets(): Promise<Secret[] | StartFailure> {
    const { context, worker } = this.#options
    const read: Secret[] = []
    for (const reference of worker.spec.secrets) {
      const reading = await context.secrets.read(reference)
      if (reading.status === 'refused') {
        const { name } = reference
        const source = secretSourceText(reference)
        return {
          status: 'failed',
          code: 'SECRET_UNAVAILABLE',
          message: `The secret ${name} of the preset ${worker.presetId} could not be read from ${source}: ${reading.message}`,
          hint: `Mend the source, or change secrets.${name} in the presets file, and submit the task again.`,
        }
      }
      read.push(reading.secret)
    }
    return read
  }

  /** An engine that went away in the middle may have started the worker; trying again under the same name finds it. */
  async #tryStart(order: WorkerOrder, signal: AbortSignal): Promise<StartResult> {
    const { context, onPull } = this.#options
    try {
      return await context.runner.start(order, { signal, onPull })
    } catch (error) {
      if (!(error instanceof RunnerError) || error.code !== 'ENGINE_UNAVAILABLE')
        return this.#startBroke(error)
      this.#mayHaveStarted = true
      return { status: 'failed', code: error.code, message: error.message, hint: '' }
    }
  }

  /** Nothing that a runner foresees: its own files cannot be written, the disk is full. What there may be of the worker is removed. */
  #startBroke(error: unknown): StartFailure {
    const { context, worker } = this.#options
    context.logger.error({ err: error, workerId: worker.id }, 'A worker could not be started.')
    const message = `The worker could not be started: ${error instanceof Error ? error.message : String(error)}.`
    const hint = "Check the service's data folder and its log."
    return { status: 'failed', code: 'ENGINE_REFUSED', message, hint }
  }

  /** The worker is not wanted any more before it was seen to start; it may have started all the same, and must then be stopped itself. */
  async #giveUp(): Promise<Beginning> {
    const { context, worker } = this.#options
    const message = 'It was not started.'
    const failure: StartFailure = { status: 'failed', code: 'START_ABANDONED', message, hint: '' }
    if (!this.#mayHaveStarted) return { kind: 'start-failed', failure }
    const found = await this.#insist('look at the worker', () => context.runner.inspect(worker.name))
    if (found === null) return DETACHED
    const { phase } = found.value
    return phase === 'running' || phase === 'exited' ? THERE : { kind: 'start-failed', failure }
  }

  #insist<T>(what: string, action: () => Promise<T>): Promise<{ readonly value: T } | null> {
    const { context, worker } = this.#options
    return insist(context, what, { workerId: worker.id }, context.detach, action)
  }
}
