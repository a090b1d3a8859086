import { createHash } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import { type Api, ApiError, type SeenEvent, type SeenTask } from './api.ts'
import { excusesOf, outcomesOf } from './excuses.ts'
import type { Ledger } from './ledger.ts'
import type { Random } from './random.ts'
import { isCounted, type Script, writeScript } from './script.ts'
import { checkStory, outcomeOf, type TakenDown } from './story.ts'
import type { Subscriber } from './subscriber.ts'
import type { Timeline } from './timeline.ts'
import type { Violation } from './violation.ts'
import { WatchedTask } from './watched-task.ts'

/** Between two tasks of a lane, on average. */
const PAUSE_MS = 300
/** How long a task may wait for room, how long an answer may take, and how long everything that is not its own work may. */
const SLACK_MS = 60_000
/** Of the presets: until a worker is up, and for each step of its end. */
const START_MS = 90_000
const END_MS = 15_000

export interface LoadOptions {
  readonly seed: string
  readonly runner: 'docker' | 'process'
  readonly api: Api
  readonly subscribers: readonly Subscriber[]
  readonly timeline: Timeline
  readonly ledger: Ledger
  readonly onViolation: (violation: Violation, story?: readonly string[]) => void
  /** Aborted when no new task is to be submitted. */
  readonly closing: AbortSignal
  /** Aborted when everything is to be let go of. */
  readonly giveUp: AbortSignal
}

/** A task that has ended and was checked. */
export interface Told {
  readonly outcome: string
  readonly lastSeq: number
  readonly digest: string
  readonly workerIds: readonly string[]
}

/** Clients that submit, watch, cancel and check one task after the other. */
export class Load {
  readonly #options: LoadOptions
  /** By id. */
  readonly live = new Map<string, WatchedTask>()
  readonly told = new Map<string, Told>()
  cancels = 0

  constructor(options: LoadOptions) {
    this.#options = options
  }

  /** One client: goes on until the load is closing and its last task has ended. */
  async lane(name: string, random: Random): Promise<void> {
    const { closing, giveUp, seed, runner } = this.#options
    for (let n = 1; !closing.aborted; n++) {
      const own = random.fork(String(n))
      await this.run(`${seed}-${name}-${n}`, writeScript(own, runner), own)
      if (giveUp.aborted) return
      await delay(random.wait(PAUSE_MS), undefined, { signal: closing }).catch(() => undefined)
    }
  }

  /** One task under this key: submits, follows, maybe cancels and at last checks it. Gives its outcome; `null`: it was not to be had. */
  async run(key: string, script: Script, random: Random): Promise<string | null> {
    const { giveUp, onViolation } = this.#options
    try {
      const task = await this.#submit(key, script)
      if (task === null) return null
      this.live.set(task.id, task)
      try {
        await this.#watch(task, random)
      } finally {
        this.live.delete(task.id)
      }
      return this.told.get(task.id)?.outcome ?? null
    } catch (error) {
      if (giveUp.aborted) return null
      const detail = error instanceof Error ? `${error.name} ${error.message}` : String(error)
      onViolation({ rule: 'client', taskId: null, detail: `${key}: ${detail}` })
      return null
    }
  }

  async #submit(key: string, script: Script): Promise<WatchedTask | null> {
    const { api, seed, onViolation } = this.#options
    const submission = {
      presetId: `chaos/${script.preset}`,
      input: script.input,
      idempotencyKey: key,
      labels: { chaos: seed },
      timeoutMs: script.timeoutMs,
    }
    const submit = () => this.#insist(`submit ${key}`, () => api.submit(submission))
    const answers = await Promise.all(script.twice ? [submit(), submit()] : [submit()])
    const ids = new Set(answers.map(({ id }) => id))
    if (ids.size > 1)
      onViolation({ rule: 'idempotency', taskId: null, detail: `${key} became ${[...ids].join(' and ')}` })
    const [id] = ids
    return id === undefined ? null : new WatchedTask(id, script)
  }

  async #watch(task: WatchedTask, random: Random): Promise<void> {
    const { subscribers, giveUp } = this.#options
    const over = new AbortController()
    const signal = AbortSignal.any([giveUp, over.signal])
    const transcripts: TakenDown[] = []
    const follow = async (
      after: number,
      onEvents?: (events: readonly SeenEvent[]) => void,
    ): Promise<void> => {
      const subscriber = random.pick(subscribers)
      const events = await subscriber.follow(task.id, { after, signal, ...(onEvents && { onEvents }) })
      transcripts.push({ after, events })
    }
    const first = follow(0, (events) => {
      task.take(events)
    })
    let cancelAsked = false
    const others = task.script.followers.map(async ({ delayMs, skip }) => {
      await delay(delayMs, undefined, { signal })
      await follow(Math.min(skip, task.lastSeq))
    })
    const cancelling = this.#cancel(task, first, signal).then((asked) => {
      cancelAsked = asked
    })
    const all = [first, ...others, cancelling]
    let isStuck: boolean
    try {
      isStuck = await this.#untilStuck(task, Promise.all(all))
    } finally {
      over.abort()
      await Promise.allSettled(all)
    }
    if (giveUp.aborted) return
    await this.#check(task, transcripts, cancelAsked, isStuck)
  }

  /** Cancels the task when its script says so; gives whether that was answered. */
  async #cancel(task: WatchedTask, ended: Promise<void>, signal: AbortSignal): Promise<boolean> {
    const { cancel } = task.script
    if (cancel === null) return false
    if (cancel.kind === 'at the end') await Promise.race([task.atTheEnd, ended])
    await delay(cancel.ms, undefined, { signal })
    await this.#insist(`cancel ${task.id}`, () => this.#options.api.cancel(task.id))
    this.cancels++
    return true
  }

  /** `true` where `done` has not come within the time that the task's own deadlines and what was done to the system explain. */
  async #untilStuck(task: WatchedTask, done: Promise<unknown>): Promise<boolean> {
    const { timeline, giveUp } = this.#options
    const over = done.then(() => true)
    const { timeoutMs, input } = task.script
    const workMs = Math.min(timeoutMs, 3 * input.lines * (input.interval_ms + 1) + 20_000)
    for (;;) {
      const isOver = await Promise.race([over, delay(1_000, false)])
      if (isOver || giveUp.aborted) return false
      const attempts = Math.max(1, task.attempt)
      const mayTakeMs =
        SLACK_MS + START_MS + attempts * (workMs + END_MS) + timeline.outageMs(task.submittedAt)
      if (Date.now() - task.submittedAt > mayTakeMs) return true
    }
  }

  async #check(
    watched: WatchedTask,
    transcripts: readonly TakenDown[],
    cancelAsked: boolean,
    isStuck: boolean,
  ): Promise<void> {
    const { timeline, ledger, onViolation } = this.#options
    const { script, id } = watched
    const { task, events } = await this.read(id)
    const excuses = excusesOf(task, events, timeline)
    const outcomes = outcomesOf(script, excuses)
    const story = { task, events, transcripts, outcomes, cancelAsked, isCounted: isCounted(script), excuses }
    const violations = isStuck
      ? [{ rule: 'stuck', taskId: id, detail: `${Date.now() - watched.submittedAt} ms after its submission` }]
      : checkStory(story, ledger)
    if (violations.length > 0) {
      const lines = this.#tell(watched, task, events)
      for (const violation of violations) onViolation(violation, lines)
    }
    this.told.set(id, {
      outcome: outcomeOf(task),
      lastSeq: task.lastSeq,
      digest: digestOf(events),
      workerIds: task.attempts.map(({ workerId }) => workerId),
    })
  }

  /** A task and its events, as the service has them now. */
  async read(id: string): Promise<{ readonly task: SeenTask; readonly events: readonly SeenEvent[] }> {
    const { api } = this.#options
    const events = await this.#insist(`read the events of ${id}`, () => api.events(id))
    return { events, task: await this.#insist(`read ${id}`, () => api.task(id)) }
  }

  #tell({ script }: WatchedTask, task: SeenTask, events: readonly SeenEvent[]): readonly string[] {
    return [
      `script ${JSON.stringify(script)}`,
      `task ${JSON.stringify({ ...task, text: undefined })}`,
      ...events.map((event) => JSON.stringify(event).slice(0, 300)),
      ...this.#options.timeline.lines(
        Date.parse(task.createdAt),
        Date.parse(task.finishedAt ?? new Date().toISOString()),
      ),
    ]
  }

  /** Asks until there is an answer: the service may be away, but not for longer than what was done to it. */
  async #insist<T>(what: string, ask: () => Promise<T>): Promise<T> {
    const { timeline, giveUp } = this.#options
    const from = Date.now()
    for (;;) {
      try {
        return await ask()
      } catch (error) {
        if (error instanceof ApiError) throw error
        giveUp.throwIfAborted()
        if (Date.now() - from > SLACK_MS + timeline.outageMs(from))
          throw new Error(`no answer for ${Date.now() - from} ms: ${what}`, { cause: error })
      }
      await delay(100, undefined, { signal: giveUp })
    }
  }
}

export function digestOf(events: readonly SeenEvent[]): string {
  return createHash('sha256').update(JSON.stringify(events)).digest('hex')
}
