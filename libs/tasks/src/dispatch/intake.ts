import type { Actor } from '../audit.ts'
import type { DispatcherOptions, SubmitRequest, SubmitResult } from '../dispatcher.ts'
import type { NewTask } from '../store.ts'
import type { Task } from '../task.ts'
import type { KeyUsage } from './key-usage.ts'
import { spentText } from '../planner/index.ts'
import { conflict, hashOf, prepare, type Prepared, refused } from './submission.ts'
import { findFiles, unknownUploadText } from './task-files.ts'
import type { TaskQueue } from './task-queue.ts'

export interface IntakeOptions extends DispatcherOptions {
  readonly queue: TaskQueue
  readonly keyUsage: KeyUsage
  /** The task is stored, and new. */
  readonly taken: (task: Task) => void
}

/** What a request would become, or has become before under its idempotency key. */
export type Considered = Prepared | { readonly status: 'submitted-before'; readonly task: Task }

/** Takes tasks in: all that a submission has to pass until it is stored and in the queue. */
export class Intake {
  readonly #options: IntakeOptions
  /** Tasks that are being stored, and will then be in the queue. */
  readonly #arriving = new Set<NewTask>()
  #isClosed = false

  constructor(options: IntakeOptions) {
    this.#options = options
  }

  get isClosed(): boolean {
    return this.#isClosed
  }

  /** From now on nothing is taken that was not before. */
  close(): void {
    this.#isClosed = true
  }

  /** Stores the tasks, all or none. `retried`: the ended task that the only one repeats. */
  async submit(requests: readonly SubmitRequest[], retried: Task | null, by: Actor): Promise<SubmitResult> {
    const { store, taken } = this.#options
    // First of all: a client that asks again whether its task was taken must hear so, full queue or not.
    const earlier = await this.#submittedBefore(requests)
    if (earlier !== null) return earlier
    if (this.#isClosed) return this.#closedText()
    const tasks: NewTask[] = []
    for (const [index, request] of requests.entries()) {
      const prepared = await this.#prepare(request, index, retried)
      if (prepared.status !== 'prepared') return prepared
      tasks.push(prepared.task)
    }
    const tooMany = this.#tooMany(tasks)
    if (tooMany !== null) return tooMany
    for (const task of tasks) this.#arriving.add(task)
    const created = await store.create(tasks, by).finally(() => {
      for (const task of tasks) this.#arriving.delete(task)
    })
    if (created.status === 'conflict') return conflict(created.task, created.index)
    if (created.status === 'file-gone') {
      const issues = [{ path: 'files', message: unknownUploadText(created.id) }]
      return { status: 'invalid-input', index: created.index, issues }
    }
    for (const { task, duplicate } of created.tasks) if (!duplicate) taken(task)
    // Who hears that a task was taken must find it whatever happens, a loss of power included; the task itself need not wait for that.
    await store.sync()
    return { status: 'submitted', tasks: created.tasks }
  }

  /** What `submit` would make of the request now; stores nothing. */
  async consider(request: SubmitRequest): Promise<Considered> {
    const earlier = await this.#submittedBefore([request])
    if (earlier?.status === 'submitted') {
      const [submitted] = earlier.tasks
      if (submitted !== undefined) return { status: 'submitted-before', task: submitted.task }
    } else if (earlier !== null) return earlier
    if (this.#isClosed) return this.#closedText()
    const prepared = await this.#prepare(request, 0, null)
    return prepared.status === 'prepared' ? (this.#tooMany([prepared.task]) ?? prepared) : prepared
  }

  #closedText(): ReturnType<typeof refused> {
    return refused('SHUTTING_DOWN', 'The service is stopping and takes no new tasks.')
  }

  /** Why there is no room for the tasks, which are all of one API key or of none; `null`: there is. */
  #tooMany(tasks: readonly NewTask[]): ReturnType<typeof refused> | null {
    const { maxQueued, clock, room, queue, keyUsage } = this.#options
    if (room.full !== null) return refused('DISK_FULL', room.full)
    const taken = queue.size + this.#arriving.size
    if (taken + tasks.length > maxQueued)
      return refused(
        'QUEUE_FULL',
        `${taken} of ${maxQueued} places in the queue are taken, and ${tasks.length} are asked for. Try again later.`,
      )
    const keyId = tasks[0]?.keyId ?? null
    if (keyId === null) return null
    const { queuedTasks } = keyUsage.limitsOf(keyId)
    const arriving = [...this.#arriving].filter((task) => task.keyId === keyId).length
    const waiting = queue.countOf(keyId) + arriving
    if (queuedTasks !== null && waiting + tasks.length > queuedTasks)
      return refused(
        'KEY_QUEUE_FULL',
        `API key ${keyId} may have ${queuedTasks} tasks in the queue. It has ${waiting}, and ${tasks.length} are asked for. Try again when some have started.`,
      )
    const now = clock.now()
    const spent = tasks.some(({ spec }) => spec.gpus.count !== 0) ? keyUsage.spent(keyId, now) : null
    if (spent === null) return null
    const retryAfterSeconds = Math.ceil((spent.until - now) / 1_000)
    return { ...refused('GPU_TIME_SPENT', spentText(keyId, spent)), retryAfterSeconds }
  }

  /** `retried`: the task that it repeats, whose files it gets whoever they are of. */
  async #prepare(request: SubmitRequest, index: number, retried: Task | null): Promise<Prepared> {
    const found =
      retried === null ? await findFiles(request, this.#options) : ({ ...retried, status: 'found' } as const)
    return found.status === 'found'
      ? prepare(request, found.files, index, this.#options, retried?.id ?? null)
      : { status: 'invalid-input', index, issues: found.issues }
  }

  /** Where all of them were submitted before under their keys: what became of them. */
  async #submittedBefore(requests: readonly SubmitRequest[]): Promise<SubmitResult | null> {
    const { store } = this.#options
    const tasks: { readonly task: Task; readonly duplicate: true }[] = []
    for (const [index, request] of requests.entries()) {
      const { owner, idempotencyKey } = request
      const earlier = idempotencyKey === null ? null : await store.submitted(owner, idempotencyKey)
      if (earlier === null) return null
      if (earlier.requestHash !== hashOf(request)) return conflict(earlier.task, index)
      tasks.push({ task: earlier.task, duplicate: true })
    }
    return { status: 'submitted', tasks }
  }
}
