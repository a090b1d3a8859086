import type { SeenTask } from './api.ts'
import type { Script } from './script.ts'
import type { Excuses } from './story.ts'
import type { DeedKind, Timeline } from './timeline.ts'

/** What an end that is seen late may have been done to before. */
const AFTER_MS = 3_000
/** A worker that was paused by hand for so long was silent for its preset. */
const ENDED_BY_HAND: readonly DeedKind[] = ['worker killed', 'worker removed', 'worker stopped']

/** What was done to a task while it lived. */
export function excusesOf(
  task: SeenTask,
  timeline: Timeline,
): Excuses & { readonly deeds: ReadonlySet<DeedKind> } {
  const end = task.finishedAt === null ? Date.now() : Date.parse(task.finishedAt)
  const workers = new Set(task.attempts.map(({ workerId }) => workerId))
  const own = timeline
    .during(Date.parse(task.createdAt), end + AFTER_MS)
    .filter(({ workerId }) => workerId === null || workers.has(workerId))
  const deeds = new Set(own.map(({ kind }) => kind))
  return {
    engineKilled: deeds.has('engine killed'),
    workerEnded: ENDED_BY_HAND.some((kind) => deeds.has(kind)),
    deeds,
  }
}

/**
 * How a task may end, given what was done to it: as its script has it, or in a way that is the deed's own. Kills of the service, a network
 * that breaks, a database that is locked and an engine that is away excuse nothing.
 */
export function outcomesOf(script: Script, deeds: ReadonlySet<DeedKind>): readonly string[] {
  const outcomes = [script.outcome]
  // What a session loses is tried again.
  if (script.mode === 'one-off') {
    if (ENDED_BY_HAND.some((kind) => deeds.has(kind))) outcomes.push('FAILED WORKER_FAILED', 'FAILED LOST')
    // Who ran out of memory is the engine's to tell.
    if (script.preset === 'small' && (deeds.has('engine stopped') || deeds.has('engine killed')))
      outcomes.push('FAILED WORKER_FAILED')
  }
  // Paused, a worker is as silent as one that hangs.
  if (isWatched(script) && deeds.has('worker paused')) outcomes.push('TIMED_OUT SILENCE_TIMEOUT')
  if (deeds.has('engine killed')) {
    // Lines that the engine had not written down are gone for ever, a finish among them.
    outcomes.push('FAILED OUTPUT_LOST')
    outcomes.push(script.mode === 'one-off' ? 'FAILED NO_FINISH' : 'TIMED_OUT RUN_TIMEOUT')
    if (isWatched(script)) outcomes.push('TIMED_OUT SILENCE_TIMEOUT')
  }
  return outcomes
}

function isWatched({ preset }: Script): boolean {
  return preset === 'watched' || preset === 'listening'
}
