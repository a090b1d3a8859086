import type { GpuId, TaskId, WorkerId } from '../ids.ts'
import { created, END_MS, nextMoment, pass, refresh, takeUp, type Actor } from './actor.ts'
import { UNKNOWN_LOAD_MS } from './eviction.ts'
import { allowing } from './gpu-need.ts'
import { plan } from './plan.ts'
import type { PlanAction, PlanInput, PlannedWorker, QueuedTask, Spread, WorkerFacts } from './plan-input.ts'
import { createView, kindOf } from './queue-view.ts'
import { createRoom } from './room.ts'
import { both, CERTAIN, doubtAround, meanOf, ofFirst, widened, type Doubt } from './spread.ts'

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

const MAX_STEPS = 120
/** After so many, how it goes on is told by their pace. */
const MAX_STARTS = 48
/** From a claim to RUNNING on a warm worker, where none has been measured. */
const UNKNOWN_HAND_OVER: Spread = { low: 30, middle: 50, high: 80 }
const UNKNOWN_LOAD: Spread = { low: UNKNOWN_LOAD_MS / 2, middle: UNKNOWN_LOAD_MS, high: UNKNOWN_LOAD_MS * 2 }

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
  const view = createView(ordered, input.keys)
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
          return task === undefined ? [] : [kindOf(task, input.keys)]
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
    actor.running = [
      ...actor.running,
      { since: now, owner: task.owner, keyId: task.keyId, doneAt: at + meanMs, release },
    ]
    refresh(actor, now)
    starts.set(task.id, { at, warm, doubt: since, last, before: starts.size })
    const kind = kindOf(task, input.keys)
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

function isOn({ claim }: PlannedWorker, gpus: ReadonlySet<GpuId>): boolean {
  return claim.gpuIds.some((id) => gpus.has(id))
}

/** What the workers are taken to use of a GPU, in MB. */
function usedBy(workers: readonly PlannedWorker[], gpuId: GpuId): number {
  return workers
    .filter(({ claim }) => claim.gpuIds.includes(gpuId))
    .reduce((sum, { usedMb, claim }) => sum + (usedMb.get(gpuId) ?? claim.memoryMb ?? 0), 0)
}
