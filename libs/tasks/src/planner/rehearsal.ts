import type { GpuId, TaskId, WorkerId } from '../ids.ts'
import { UNKNOWN_LOAD_MS } from './eviction.ts'
import { allowing } from './gpu-need.ts'
import { plan } from './plan.ts'
import type { PlanAction, PlanInput, PlannedWorker, QueuedTask, Spread, WorkerFacts } from './plan-input.ts'
import { createRoom } from './room.ts'
import { both, CERTAIN, doubtAround, lastingMs, meanOf, ofFirst, widened, type Doubt } from './spread.ts'

/** When a task is RUNNING in a rehearsal. */
export interface RehearsedStart {
  readonly at: number
  readonly warm: boolean
  /** Of the moment at which it gets its worker. */
  readonly doubt: Doubt
  /** Of the load, or of the hand-over, from then on. */
  readonly last: Doubt
  /** How many start before it. */
  readonly before: number
}

/** What came of carrying out plan after plan in a made-up time. */
export interface Rehearsal {
  readonly starts: ReadonlyMap<TaskId, RehearsedStart>
  /** By `kindOf`. */
  readonly startsOfKind: ReadonlyMap<string, number>
  /** Kinds that do not start as things are, however long one waits. */
  readonly hopeless: ReadonlySet<string>
  /** Nothing more would happen that anybody knows of. */
  readonly isOver: boolean
  /** How far it went. */
  readonly endedAt: number
  readonly doubt: Doubt
}

const MAX_STEPS = 160
/** After so many, how it goes on is told by their pace. */
const MAX_STARTS = 64
/** So many of the first tasks are looked at in each step, and of so many kinds behind them that are not among these so many each. */
const WINDOW = 32
const MORE_KINDS = 16
const OF_EACH_KIND = 2
/** Until a worker that was told to end has left its GPUs. */
const END_MS = 1_000
/** From a claim to RUNNING on a warm worker, where none has been measured. */
const UNKNOWN_HAND_OVER: Spread = { low: 30, middle: 50, high: 80 }
const UNKNOWN_LOAD: Spread = { low: UNKNOWN_LOAD_MS / 2, middle: UNKNOWN_LOAD_MS, high: UNKNOWN_LOAD_MS * 2 }

/** Tasks that the same workers serve. */
export function kindOf({ specHash, session, owner }: QueuedTask): string {
  return session?.isolation === 'owner' ? `${specHash} ${owner}` : specHash
}

/** A moment at which something becomes free. */
interface Release {
  /** Of the moment when the run began. */
  readonly base: Doubt
  /** Of the run itself. */
  readonly own: Doubt
}

interface Running {
  readonly since: number
  readonly owner: string
  /** `Infinity`: nobody knows. */
  readonly doneAt: number
  readonly release: Release
}

/** A worker whose time passes. */
interface Actor {
  planned: PlannedWorker
  running: readonly Running[]
  readonly readyAt: number
  readonly ready: Release
  goneAt: number
  /** Of what last made something of it free, or will. */
  release: Release
}

/**
 * Carries out plan after plan for the queue, which is given in order, while runs and loads take as long as they lately did. The work is
 * bounded whatever the length of the queue.
 */
export function rehearse(input: PlanInput, ordered: readonly QueuedTask[]): Rehearsal {
  let { now } = input
  const facts = new Map<string, WorkerFacts>()
  const factsOf = (hash: string): WorkerFacts => {
    const known = facts.get(hash) ?? input.factsOf(hash)
    facts.set(hash, known)
    return known
  }
  const loadOf = (hash: string): Spread => factsOf(hash).loadMs ?? UNKNOWN_LOAD
  const actors = new Map(takeUp(input, factsOf, loadOf).map((actor) => [actor.planned.id, actor]))
  const foreign = createRoom(input).gpus.map(({ gpu, foreignMb }) => ({ gpu, foreignMb }))
  const starts = new Map<TaskId, RehearsedStart>()
  const startsOfKind = new Map<string, number>()
  const view = createView(ordered)
  let hopeless: ReadonlySet<string> = new Set()
  let released: readonly Actor[] = []
  let doubt = CERTAIN
  let isOver = false

  for (let step = 0; step < MAX_STEPS; step += 1) {
    const looked = view.next()
    if (looked.size === 0) break
    const workers = [...actors.values()].map(({ planned }) => planned)
    const { actions, waiting, wakeAt } = plan({
      ...input,
      now,
      factsOf,
      gpus: foreign.map(({ gpu, foreignMb }) => ({ ...gpu, usedMb: foreignMb + usedBy(workers, gpu.id) })),
      queue: [...looked.values()],
      workers,
      wanted: [],
    })
    const before = starts.size
    for (const [at, action] of actions.entries()) carryOut(action, looked, `${step}.${at}`)
    if (starts.size >= MAX_STARTS && view.isLonger()) break
    // Others would have started at this moment, too, had they been looked at.
    if (starts.size > before && view.isLonger()) continue
    const next = nextMoment(actors, wakeAt, now)
    if (next === null || step === MAX_STEPS - 1) {
      isOver = next === null
      const never = [...waiting].filter(([, { kind }]) => kind === 'no-gpu' || kind === 'blocked')
      hopeless = new Set(
        never.flatMap(([id]) => {
          const task = looked.get(id)
          return task === undefined ? [] : [kindOf(task)]
        }),
      )
      break
    }
    now = next
    released = pass(actors, now)
  }
  return { starts, startsOfKind, hopeless, isOver, endedAt: now, doubt }

  function carryOut(action: PlanAction, looked: ReadonlyMap<TaskId, QueuedTask>, name: string): void {
    if (action.kind === 'end') {
      const actor = actors.get(action.workerId)
      if (actor === undefined) return
      actor.goneAt = now + END_MS
      actor.planned = { ...actor.planned, phase: 'ending' }
      return
    }
    const task = action.taskId === null ? undefined : looked.get(action.taskId)
    if (task === undefined) return
    if (action.kind === 'start') {
      const load = loadOf(task.specHash)
      const spread = doubtAround(load.middle, load)
      const allows = allowing(task.gpus)
      const claimed = new Set(action.claim.gpuIds)
      const allowed = new Set(input.gpus.filter(allows).map(({ id }) => id))
      const since = doubtOf(
        released.filter(({ planned }) => isOn(planned, claimed)),
        ({ planned }) => isOn(planned, allowed),
      )
      const actor = created(task, action.claim, name as WorkerId, now, load.middle, {
        base: both(since, spread),
        own: CERTAIN,
      })
      actors.set(actor.planned.id, actor)
      begin(actor, task, actor.readyAt, since, spread, false)
      return
    }
    const actor = actors.get(action.workerId)
    if (actor === undefined) return
    const isServer = ({ planned }: Actor): boolean => planned.specHash === task.specHash
    const since = doubtOf(
      released.filter((other) => other === actor),
      isServer,
    )
    if (action.warm) {
      const handOver = factsOf(task.specHash).handOverMs ?? UNKNOWN_HAND_OVER
      begin(actor, task, now + handOver.middle, since, doubtAround(handOver.middle, handOver), true)
    } else {
      begin(actor, task, Math.max(now, actor.readyAt), since, actor.ready.base, false)
    }
  }

  function begin(actor: Actor, task: QueuedTask, at: number, since: Doubt, last: Doubt, warm: boolean): void {
    const runMs = factsOf(task.specHash).runMs
    const run = runMs === null ? null : widened(runMs)
    const meanMs = run === null ? Infinity : meanOf(run)
    const release = {
      base: both(since, last),
      own: run === null ? CERTAIN : doubtAround(meanMs, run),
    }
    actor.running = [...actor.running, { since: now, owner: task.owner, doneAt: at + meanMs, release }]
    refresh(actor, now)
    starts.set(task.id, { at, warm, doubt: since, last, before: starts.size })
    const kind = kindOf(task)
    startsOfKind.set(kind, (startsOfKind.get(kind) ?? 0) + 1)
    doubt = since
    view.remove(task)
  }

  /**
   * Of a moment at which these became free. Where several run that might be done first, the moment depends on all of them: it spreads
   * less than each does by itself.
   */
  function doubtOf(those: readonly Actor[], competes: (actor: Actor) => boolean): Doubt {
    const causes = those.length > 0 ? those : released
    if (causes.length === 0) return CERTAIN
    let rivals = 0
    for (const actor of actors.values()) if (competes(actor)) rivals += actor.running.length
    for (const actor of released) if (competes(actor)) rivals += 1
    let [down, up, drift] = [0, 0, 0]
    for (const { release } of causes) {
      const cause = both(release.base, ofFirst(release.own, rivals))
      down = Math.max(down, cause.down)
      up = Math.max(up, cause.up)
      drift = Math.max(drift, cause.drift)
    }
    return { down, up, drift }
  }
}

/** The part of the queue that is looked at in each step. */
function createView(ordered: readonly QueuedTask[]): {
  next(): ReadonlyMap<TaskId, QueuedTask>
  /** There is more than `next` has given. */
  isLonger(): boolean
  remove(task: QueuedTask): void
} {
  const gone = new Set<TaskId>()
  const kinds = new Map<string, { readonly tasks: QueuedTask[]; from: number }>()
  for (const task of ordered) {
    const kind = kindOf(task)
    const known = kinds.get(kind)
    if (known === undefined) kinds.set(kind, { tasks: [task], from: 0 })
    else known.tasks.push(task)
  }
  let from = 0
  let given = 0
  return {
    next() {
      const looked = new Map<TaskId, QueuedTask>()
      const seen = new Set<string>()
      while (from < ordered.length && gone.has(ordered[from]?.id ?? ('' as TaskId))) from += 1
      for (let at = from; at < ordered.length && looked.size < WINDOW; at += 1) {
        const task = ordered[at]
        if (task === undefined || gone.has(task.id)) continue
        looked.set(task.id, task)
        seen.add(kindOf(task))
      }
      let more = MORE_KINDS
      for (const [kind, list] of kinds) {
        if (more === 0) break
        if (seen.has(kind)) continue
        const { tasks } = list
        while (list.from < tasks.length && gone.has(tasks[list.from]?.id ?? ('' as TaskId))) list.from += 1
        const left = tasks.slice(list.from, list.from + OF_EACH_KIND).filter(({ id }) => !gone.has(id))
        if (left.length === 0) continue
        more -= 1
        for (const task of left) looked.set(task.id, task)
      }
      given = looked.size + gone.size
      return looked
    },
    isLonger: () => given < ordered.length,
    remove(task) {
      gone.add(task.id)
    },
  }
}

function isOn({ claim }: PlannedWorker, gpus: ReadonlySet<GpuId>): boolean {
  return claim.gpuIds.some((id) => gpus.has(id))
}

/** What the workers are taken to use of a GPU, in MB. */
function usedBy(workers: readonly PlannedWorker[], gpuId: GpuId): number {
  return workers
    .filter(({ claim }) => claim.gpuIds.includes(gpuId))
    .reduce((sum, { usedMb, claim }) => sum + (usedMb.get(gpuId) ?? claim.memoryMb ?? 0), 0)
}

/** The workers that are there. */
function takeUp(
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
          doneAt: end === undefined ? Infinity : upcoming(end.at),
          release: { base: ready, own: end?.own ?? CERTAIN },
        }
      }),
      goneAt: planned.phase === 'ending' ? now + END_MS : Infinity,
    }
  })
}

function created(
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
function nextMoment(actors: ReadonlyMap<WorkerId, Actor>, wakeAt: number | null, now: number): number | null {
  let next = wakeAt ?? Infinity
  for (const { planned, readyAt, running, goneAt } of actors.values()) {
    next = Math.min(next, goneAt)
    for (const { doneAt } of running) next = Math.min(next, doneAt)
    if (planned.phase === 'starting') next = Math.min(next, readyAt)
  }
  return next === Infinity ? null : Math.max(next, now + 1)
}

/** What has happened by `now` to the workers; gives those of which something has become free. */
function pass(actors: Map<WorkerId, Actor>, now: number): readonly Actor[] {
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

function refresh(actor: Actor, now: number): void {
  const { planned, running } = actor
  actor.planned = {
    ...planned,
    runningSince: running.map(({ since }) => since),
    runningOwners: running.map(({ owner }) => owner),
    idleSince: running.length === 0 && planned.phase === 'ready' ? now : null,
  }
}
