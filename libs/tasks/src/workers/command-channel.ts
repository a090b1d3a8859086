import { delay, type Clock } from '../clock.ts'
import type { WorkerName } from '../ids.ts'
import type { Logger } from '../logger.ts'
import { RunnerError, type RunOrder, type WorkerInput, type WorkerRunner } from '../runner.ts'

/** Between two tries to open the stdin of a worker whose engine is away. */
const REACH_AGAIN_MS = 250

export interface CommandChannelOptions {
  readonly runner: Pick<WorkerRunner, 'openInput'>
  readonly name: WorkerName
  readonly clock: Clock
  readonly logger: Logger
  /** The runner's neighbour is away (`false`). */
  readonly reachable: (reachable: boolean, detail: string) => void
  /** Aborted when the worker has ended. */
  readonly ended: AbortSignal
}

/** What a command does to the one who sends it. */
export interface DeliverySteps {
  readonly isWanted: () => boolean
  /** The worker's stdin is open, and the command is about to leave. */
  readonly beforeSending: () => void
  /** It has not left after all; it is tried again. */
  readonly onUnsent: () => void
}

/** What became of a command. */
export type Delivery =
  /** It has left, and the worker may have it: it is not sent again. */
  | { readonly kind: 'sent' }
  /** The worker does not have it, and cannot be given it. */
  | { readonly kind: 'refused'; readonly message: string }
  /** Nobody wanted it any more. */
  | { readonly kind: 'dropped' }

/** The commands to one session worker: its stdin is opened when first needed, and again after a failure. */
export class CommandChannel {
  readonly #options: CommandChannelOptions
  #input: Promise<WorkerInput> | null = null

  constructor(options: CommandChannelOptions) {
    this.#options = options
  }

  /** Gives the worker a task as soon as it can be reached; it has taken it when it says so. */
  run(order: RunOrder, steps: DeliverySteps): Promise<Delivery> {
    return this.#deliver(steps, (input) => input.run(order))
  }

  /** Asks the worker to stop a task, as soon as it can be reached. */
  cancel(runId: string, steps: DeliverySteps): Promise<Delivery> {
    return this.#deliver(steps, (input) => input.cancel(runId))
  }

  /** Asks the worker to end; rejects where it cannot be reached now. */
  async shutdown(): Promise<void> {
    const input = await this.#open()
    await input.shutdown()
  }

  /** Lets go of the worker's stdin, which stays open. */
  detach(): void {
    this.#input?.then(
      (input) => {
        input.detach()
      },
      () => undefined,
    )
    this.#input = null
  }

  async #deliver(
    { isWanted, beforeSending, onUnsent }: DeliverySteps,
    send: (input: WorkerInput) => Promise<void>,
  ): Promise<Delivery> {
    const { clock, ended } = this.#options
    const isDropped = (): boolean => ended.aborted || !isWanted()
    while (!isDropped()) {
      const reached = await this.#reach()
      if (reached !== 'away') {
        if ('kind' in reached) return reached
        if (isDropped()) break
        beforeSending()
        const delivery = await this.#send(() => send(reached))
        if (delivery !== 'unsent') return delivery
        onUnsent()
      }
      await delay(clock, REACH_AGAIN_MS, ended)
    }
    return { kind: 'dropped' }
  }

  async #reach(): Promise<WorkerInput | Delivery | 'away'> {
    try {
      return await this.#open()
    } catch (error) {
      this.#input = null
      if (codeOf(error) !== 'ENGINE_UNAVAILABLE') return { kind: 'refused', message: messageOf(error) }
      this.#options.reachable(false, messageOf(error))
      return 'away'
    }
  }

  async #send(send: () => Promise<void>): Promise<Delivery | 'unsent'> {
    const { logger, name } = this.#options
    try {
      await send()
      return { kind: 'sent' }
    } catch (error) {
      this.detach()
      logger.warn({ err: error, worker: name }, 'A command could not be given to a session worker.')
      // INPUT_CLOSED: nothing of it has left, as after a restart of the engine.
      if (codeOf(error) === 'INPUT_CLOSED') return 'unsent'
      // An engine that went away in the middle may have delivered it.
      if (codeOf(error) === 'ENGINE_UNAVAILABLE') return { kind: 'sent' }
      return { kind: 'refused', message: messageOf(error) }
    }
  }

  #open(): Promise<WorkerInput> {
    const { runner, name } = this.#options
    this.#input ??= runner.openInput(name)
    return this.#input
  }
}

function codeOf(error: unknown): RunnerError['code'] | null {
  return error instanceof RunnerError ? error.code : null
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
