import type { SeenEvent, SeenTask } from './api.ts'
import { marksOf } from './marks.ts'
import type { Script } from './script.ts'
import type { Excuses } from './story.ts'
import type { DeedKind, Timeline } from './timeline.ts'

/** What an end that is seen late may have been done to before. */
const AFTER_MS = 3_000
const ENDED_BY_HAND: readonly DeedKind[] = ['worker killed', 'worker removed', 'worker stopped']
const ENGINE_AWAY: readonly DeedKind[] = ['engine stopped', 'engine killed']

export interface TaskExcuses extends Excuses {
  /** What was done to it, or to all, while it lived. */
  readonly deeds: ReadonlySet<DeedKind>
}

/** What was done to a task, with these events, while it lived. */
export function excusesOf(task: SeenTask, events: readonly SeenEvent[], timeline: Timeline): TaskExcuses {
  const end = endOf(task.finishedAt)
  const workers = new Set(task.attempts.map(({ workerId }) => workerId))
  const own = timeline
    .during(Date.parse(task.createdAt), end + AFTER_MS)
    .filter(({ workerId }) => workerId === null || workers.has(workerId))
  const deeds = new Set(own.map(({ kind }) => kind))
  return {
    engineKilled: deeds.has('engine killed'),
    engineAwayAtEnd: task.attempts.some(({ attempt, startedAt, finishedAt }) => {
      // The worker has ended somewhere between its last line and the attempt's last event; the service may have noted it later still.
      const own = events.filter((event) => event.attempt === attempt)
      const heardAt = own.findLast((event) => marksOf(event).length > 0)?.at ?? startedAt
      const from = Date.parse(heardAt) - AFTER_MS
      const to = endOf(own.at(-1)?.at ?? finishedAt) + AFTER_MS
      return timeline.during(from, to).some(({ kind }) => ENGINE_AWAY.includes(kind))
    }),
    workerEnded: ENDED_BY_HAND.some((kind) => deeds.has(kind)),
    deeds,
  }
}

function endOf(finishedAt: string | null): number {
  return finishedAt === null ? Date.now() : Date.parse(finishedAt)
}

/**
 * How a task may end, given what was done to it: as its script has it, or in a way that is the deed's own. Kills of the service, a network
 * that breaks, a database that is locked and an engine that hangs excuse nothing; an engine that was away only where it missed the
 * worker's end.
 */
export function outcomesOf(script: Script, { deeds, ...excuses }: TaskExcuses): readonly string[] {
  const outcomes = [script.outcome]
  if (script.mode === 'one-off') {
    // What a session loses is tried again.
    if (excuses.workerEnded) outcomes.push('FAILED WORKER_FAILED', 'FAILED LOST')
    // Who ran out of memory is the engine's to tell, and it is told late.
    if (script.preset === 'small') outcomes.push('FAILED WORKER_FAILED')
    // What a worker says at its end while nobody is there to write it down is gone, its finish too.
    if (excuses.engineAwayAtEnd) outcomes.push('FAILED OUTPUT_LOST', 'FAILED LOST')
    // Only a process that has seen the engine go doubts that there was no finish.
    const hasForgotten = deeds.has('service killed') || deeds.has('service stopped')
    if ((excuses.engineAwayAtEnd || excuses.engineKilled) && hasForgotten) outcomes.push('FAILED NO_FINISH')
  }
  // Paused, a worker is as silent as one that hangs.
  if (isWatched(script) && deeds.has('worker paused')) outcomes.push('TIMED_OUT SILENCE_TIMEOUT')
  if (excuses.engineKilled) {
    // Lines that the engine had not written down are gone for ever, a finish among them.
    outcomes.push('FAILED OUTPUT_LOST')
    if (script.mode === 'session') outcomes.push('TIMED_OUT RUN_TIMEOUT')
    if (isWatched(script)) outcomes.push('TIMED_OUT SILENCE_TIMEOUT')
  }
  return outcomes
}

function isWatched({ preset }: Script): boolean {
  return preset === 'watched' || preset === 'listening'
}
