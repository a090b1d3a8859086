import { isDeepStrictEqual } from 'node:util'
import { FINAL, type SeenEvent, type SeenTask } from './api.ts'
import type { Ledger } from './ledger.ts'
import { marksOf } from './marks.ts'
import type { Violation } from './violation.ts'

/** What a subscriber has got, over however many connections. */
export interface TakenDown {
  readonly after: number
  readonly events: readonly SeenEvent[]
}

/** What was done to a task from outside, as far as it excuses anything. */
export interface Excuses {
  /** The engine was killed while it ran: lines that it had not written down yet are gone. */
  readonly engineKilled: boolean
  /** The engine was away as one of its workers ended: what that has said at last is gone. */
  readonly engineAwayAtEnd: boolean
  /** Its worker was ended by somebody else: what was not read by then may be gone. */
  readonly workerEnded: boolean
}

/** All that there is to know of a task that has ended. */
export interface Story {
  readonly task: SeenTask
  /** As stored. */
  readonly events: readonly SeenEvent[]
  readonly transcripts: readonly TakenDown[]
  /** How it may end: `COMPLETED`, `FAILED WORKER_FAILED`, … */
  readonly outcomes: readonly string[]
  readonly cancelAsked: boolean
  /** Its events are numbered, so that no loss goes unseen. */
  readonly isCounted: boolean
  readonly excuses: Excuses
}

/**
 * Checks one task by arithmetic, and enters its lines in the books: exactly one final state, and that one last; events 1..n; every
 * subscriber with exactly these; a loss only with a gap that says so, and then not COMPLETED; an outcome that its script and what was done
 * to it allow.
 */
export function checkStory(story: Story, ledger: Ledger): Violation[] {
  const { task, events } = story
  const faults: Violation[] = []
  const fault = (rule: string, detail: string): void => {
    faults.push({ rule, taskId: task.id, detail })
  }

  checkNumbers(story, fault)
  checkStates(story, fault)
  checkOutcome(story, fault)
  if (task.status === 'COMPLETED') checkCompleted(story, fault)
  for (const { after, events: taken } of story.transcripts) {
    const kept = events.filter(({ seq }) => seq > after)
    const at = taken.findIndex((event, index) => !isDeepStrictEqual(event, kept[index]))
    if (at >= 0 || taken.length !== kept.length)
      fault(
        'transcript',
        `a subscriber from ${after} has ${taken.length} events of ${kept.length}, other ones from index ${at} on: ` +
          `${JSON.stringify(taken[at])} instead of ${JSON.stringify(kept[at])}`,
      )
  }

  const last = new Map<string, number>()
  for (const event of events) {
    for (const mark of marksOf(event)) {
      const key = `${mark.stream} ${mark.runId}`
      const before = last.get(key) ?? 0
      if (mark.number <= before) fault('order', `line ${mark.number} of ${key} stands behind line ${before}`)
      last.set(key, mark.number)
      faults.push(...ledger.enter(mark, `event ${event.seq} of ${task.id}`))
    }
  }
  for (const { attempt } of task.attempts) ledger.expect(factsOf(story, attempt))
  return faults
}

type Fault = (rule: string, detail: string) => void

function checkNumbers({ task, events }: Story, fault: Fault): void {
  const wrong = events.findIndex(({ seq }, index) => seq !== index + 1)
  if (wrong >= 0) fault('seq', `event ${wrong + 1} has seq ${events[wrong]?.seq}`)
  if (task.lastSeq !== events.length) fault('seq', `lastSeq is ${task.lastSeq} of ${events.length} events`)
  const backwards = events.findIndex(({ attempt }, index) => attempt < (events[index - 1]?.attempt ?? 0))
  if (backwards >= 0) fault('attempts', `event ${backwards + 1} is of an earlier attempt than the one before`)
}

function checkStates({ task, events }: Story, fault: Fault): void {
  if (events[0]?.taskStatus !== 'QUEUED') fault('states', 'it does not begin with QUEUED')
  const finals = events.filter(({ taskStatus }) => taskStatus !== undefined && FINAL.includes(taskStatus))
  if (finals.length !== 1) fault('final', `${finals.length} final states`)
  if (finals[0] === undefined || finals[0] !== events.at(-1))
    fault('final', 'the final state is not the last event')
  if (finals[0]?.taskStatus !== task.status)
    fault('final', `the task is ${task.status}, its last event ${finals[0]?.taskStatus}`)
  task.attempts.forEach(({ attempt, status, finishedAt }, index) => {
    if (attempt !== index + 1) fault('attempts', `attempt ${index + 1} bears the number ${attempt}`)
    if (status === null || finishedAt === null) fault('attempts', `attempt ${attempt} has no end`)
    const isRun = status === 'COMPLETED'
    if (isRun && !events.some((event) => event.attempt === attempt && event.taskStatus === 'RUNNING'))
      fault('states', `attempt ${attempt} became COMPLETED without RUNNING`)
    if (!events.some((event) => event.attempt === attempt && event.taskStatus === 'STARTING'))
      fault('states', `attempt ${attempt} ended without STARTING`)
  })
  const became = events.flatMap(({ attempt, taskStatus }) =>
    taskStatus === undefined ? [] : [`attempt ${attempt} became ${taskStatus}`],
  )
  const again = became.find((each, index) => became.indexOf(each) !== index)
  if (again !== undefined) fault('states', `${again} more than once`)
}

function checkOutcome({ task, outcomes, cancelAsked }: Story, fault: Fault): void {
  const outcome = outcomeOf(task)
  const isAllowed = outcomes.includes(outcome) || (cancelAsked && task.status === 'CANCELLED')
  if (!isAllowed) fault('outcome', `${outcome} instead of ${outcomes.join(' or ')}`)
  if (task.status === 'CANCELLED' && task.cancelRequestedAt === null)
    fault('outcome', 'CANCELLED, and nobody had asked for it')
}

/** `COMPLETED`, `FAILED WORKER_FAILED`, … */
export function outcomeOf({ status, error }: SeenTask): string {
  return error === null ? status : `${status} ${error.code}`
}

function checkCompleted({ task, events }: Story, fault: Fault): void {
  const own = events.filter(({ attempt }) => attempt === task.attempt)
  const named = (name: string): SeenEvent[] => own.filter(({ __typename }) => __typename === name)
  if (named('GapEvent').length > 0) fault('gap', 'COMPLETED though some of its output is lost')
  const totals = named('ResultEvent').filter(({ value }) => totalsOf(value) !== null)
  if (totals.length === 0) fault('lost', 'COMPLETED without the totals of its worker')
  if (totals.length > 1) fault('repeated', `the totals of its worker ${totals.length} times`)
  if (named('FinishEvent').length !== 1) fault('finish', `${named('FinishEvent').length} finish events`)
  const text = named('TextDeltaEvent')
    .map(({ delta }) => String(delta))
    .join('')
  if ((task.text ?? '') !== text)
    fault('text', `the text has ${task.text?.length} characters, the deltas ${text.length}`)
  if (named('ArtifactEvent').length !== task.artifacts.length)
    fault('artifacts', `${task.artifacts.length} of ${named('ArtifactEvent').length}`)
}

function factsOf({ task, events, isCounted, excuses }: Story, attempt: number) {
  const own = events.filter((event) => event.attempt === attempt)
  const said = own.find(({ __typename }) => __typename === 'ResultEvent')?.['value']
  const isTold = own.some(({ __typename }) => __typename === 'GapEvent')
  const totals = totalsOf(said)
  return {
    runId: `${task.id}.${attempt}`,
    taskId: task.id,
    totals,
    mayLack: {
      // What is behind the last line that was read cannot be missed; in the middle a loss needs a word.
      o: isTold || (excuses.engineKilled && !isCounted),
      // Nothing is numbered on stderr.
      e: isTold || excuses.engineKilled || excuses.engineAwayAtEnd || excuses.workerEnded,
    },
  }
}

function totalsOf(value: unknown): { o: number; e: number } | null {
  if (typeof value !== 'object' || value === null) return null
  const { stdout, stderr } = value as { stdout?: unknown; stderr?: unknown }
  return typeof stdout === 'number' && typeof stderr === 'number' ? { o: stdout, e: stderr } : null
}
