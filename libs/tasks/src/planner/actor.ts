import type { WorkerId } from '../ids.ts'
import type { PlanInput, PlannedWorker, QueuedTask, Spread, WorkerFacts } from './plan-input.ts'
import { CERTAIN, doubtAround, lastingMs, widened, type Doubt } from './spread.ts'

/** Until a worker that was told to end has left its GPUs. */
export const END_MS = 1_000

/** A moment at which something becomes free. */
export interface Release {
  /** Of the moment when the run began. */
  readonly base: Doubt
  /** Of the run itself. */
  readonly own: Doubt
}

export interface Running {
  readonly since: number
  readonly owner: string
  readonly keyId: string | null
  /** `Infinity`: nobody knows. */
  readonly doneAt: number
  readonly release: Release
}

/** A worker whose time passes. */
export interface Actor {
  planned: PlannedWorker
  running: readonly Running[]
  readonly readyAt: number
  readonly ready: Release
  goneAt: number
  /** Of what last made something of it free, or will. */
  release: Release
}

/** The workers that are there. */
export function takeUp(
  { now, workers }: PlanInput,
  factsOf: (hash: string) => WorkerFacts,
  loadOf: (hash: string) => Spread,
): readonly Actor[] {
  // What should be over by now is believed to be about to.
  const upcoming = (at: number): number => Math.max(at, now + 1)
  const loads = workers.map(({ readyAt, startedAt, specHash }) => {
    if (readyAt !== null) return { readyAt, ready: CERTAIN }
    const load = widened(loadOf(specHash))
    const elapsedMs = Math.max(0, now - startedAt)
    const lasting = (share: number): number => lastingMs(load, elapsedMs, share)
    const middle = lasting(0.5)
    const ready = doubtAround(middle, { low: lasting(0.1), middle, high: lasting(0.9) })
    return { readyAt: upcoming(startedAt + middle), ready }
  })
  const runs = workers.flatMap(({ specHash, runningSince }, at) => {
    const { runMs } = factsOf(specHash)
    if (runMs === null) return []
    const run = widened(runMs)
    return runningSince.map((since, of) => {
      const begin = Math.max(since, loads[at]?.readyAt ?? since)
      const elapsedMs = Math.max(0, now - begin)
      const at10 = begin + lastingMs(run, elapsedMs, 0.1)
      const at90 = begin + lastingMs(run, elapsedMs, 0.9)
      return {
        key: `${at} ${of}`,
        begin,
        elapsedMs,
        run,
        at50: begin + lastingMs(run, elapsedMs, 0.5),
        at10,
        at90,
      }
    })
  })
  const byEnd = runs.toSorted((a, b) => a.at50 - b.at50)
  const ends = new Map(
    byEnd.map((one, index) => {
      // Of several that may be done first one will be sooner than is expected of each, and one later.
      const isRival = (other: typeof one): boolean => other.at10 < one.at90 && other.at90 > one.at10
      const sooner = byEnd.slice(0, index).filter(isRival).length
      const rivals = byEnd.filter(isRival).length
      const share = rivals < 2 ? 0.5 : (sooner + 0.5) / rivals
      const at = one.begin + lastingMs(one.run, one.elapsedMs, share)
      return [one.key, { at, own: doubtAround(at, { low: one.at10, middle: at, high: one.at90 }) }]
    }),
  )
  return workers.map((planned, at): Actor => {
    const { readyAt, ready } = loads[at] ?? { readyAt: now, ready: CERTAIN }
    const release = { base: ready, own: CERTAIN }
    return {
      planned,
      readyAt,
      ready: release,
      release,
      running: planned.runningSince.map((since, of): Running => {
        const end = ends.get(`${at} ${of}`)
        return {
          since,
          owner: planned.runningOwners[of] ?? '',
          keyId: planned.runningKeys[of] ?? null,
          doneAt: end === undefined ? Infinity : upcoming(end.at),
          release: { base: ready, own: end?.own ?? CERTAIN },
        }
      }),
      goneAt: planned.phase === 'ending' ? now + END_MS : Infinity,
    }
  })
}

export function created(
  { presetId, specHash, session, owner }: QueuedTask,
  claim: PlannedWorker['claim'],
  id: WorkerId,
  now: number,
  loadMs: number,
  ready: Release,
): Actor {
  return {
    readyAt: now + loadMs,
    ready,
    running: [],
    goneAt: Infinity,
    release: ready,
    planned: {
      id,
      presetId,
      specHash,
      mode: session === null ? 'ONE_OFF' : 'SESSION',
      phase: 'starting',
      claim,
      usedMb: new Map(),
      owner: session?.isolation === 'owner' ? owner : null,
      session,
      runningSince: [],
      runningOwners: [],
      runningKeys: [],
      retiring: null,
      startedAt: now,
      readyAt: null,
      idleSince: null,
      tasksServed: 0,
      affinities: new Map(),
    },
  }
}

/** When something happens next; `null`: nothing that anybody knows of. */
export function nextMoment(
  actors: ReadonlyMap<WorkerId, Actor>,
  wakeAt: number | null,
  now: number,
): number | null {
  let next = wakeAt ?? Infinity
  for (const { planned, readyAt, running, goneAt } of actors.values()) {
    next = Math.min(next, goneAt)
    for (const { doneAt } of running) next = Math.min(next, doneAt)
    if (planned.phase === 'starting') next = Math.min(next, readyAt)
  }
  return next === Infinity ? null : Math.max(next, now + 1)
}

/** What has happened by `now` to the workers; gives those of which something has become free. */
export function pass(actors: Map<WorkerId, Actor>, now: number): readonly Actor[] {
  const released: Actor[] = []
  for (const [id, actor] of actors) {
    if (actor.goneAt <= now) {
      actors.delete(id)
      released.push(actor)
      continue
    }
    const done = actor.running.filter(({ doneAt }) => doneAt <= now)
    const isReady = actor.planned.phase === 'starting' && actor.readyAt <= now
    if (done.length === 0 && !isReady) continue
    released.push(actor)
    actor.release = done[0]?.release ?? actor.ready
    actor.running = actor.running.filter(({ doneAt }) => doneAt > now)
    actor.planned = { ...actor.planned, tasksServed: actor.planned.tasksServed + done.length }
    if (isReady) actor.planned = { ...actor.planned, phase: 'ready', readyAt: actor.readyAt }
    if (actor.planned.mode === 'ONE_OFF' && actor.running.length === 0 && actor.goneAt === Infinity) {
      actor.planned = { ...actor.planned, phase: 'ending' }
      actor.goneAt = now + END_MS
    }
    refresh(actor, now)
  }
  return released
}

export function refresh(actor: Actor, now: number): void {
  const { planned, running } = actor
  actor.planned = {
    ...planned,
    runningSince: running.map(({ since }) => since),
    runningOwners: running.map(({ owner }) => owner),
    runningKeys: running.map(({ keyId }) => keyId),
    idleSince: running.length === 0 && planned.phase === 'ready' ? now : null,
  }
}
