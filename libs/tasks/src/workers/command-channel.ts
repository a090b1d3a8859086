import type { WorkerName } from '../ids.ts'
import type { RunOrder, WorkerInput, WorkerRunner } from '../runner.ts'

/**
 * The commands to one session worker: opened when first needed, and again after a failure. INPUT_CLOSED says that nothing of the command has
 * left, as after a restart of the engine.
 */
export class CommandChannel {
  readonly #runner: Pick<WorkerRunner, 'openInput'>
  readonly #name: WorkerName
  #input: Promise<WorkerInput> | null = null

  constructor(runner: Pick<WorkerRunner, 'openInput'>, name: WorkerName) {
    this.#runner = runner
    this.#name = name
  }

  /** Resolves when the worker's stdin is open; until then nothing has left. */
  async open(): Promise<void> {
    try {
      await this.#open()
    } catch (error) {
      this.#input = null
      throw error
    }
  }

  /** Resolves when the worker has been given the task as far as can be told; it has taken it when it says so. */
  run(order: RunOrder): Promise<void> {
    return this.#send((input) => input.run(order))
  }

  cancel(runId: string): Promise<void> {
    return this.#send((input) => input.cancel(runId))
  }

  shutdown(): Promise<void> {
    return this.#send((input) => input.shutdown())
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

  async #send(command: (input: WorkerInput) => Promise<void>): Promise<void> {
    try {
      await command(await this.#open())
    } catch (error) {
      this.detach()
      throw error
    }
  }

  #open(): Promise<WorkerInput> {
    this.#input ??= this.#runner.openInput(this.#name)
    return this.#input
  }
}
