import type { GpuId, TaskId, WorkerId } from '../ids.ts'
import { UNKNOWN_LOAD_MS } from './eviction.ts'
import { inOrder } from './order.ts'
import { plan } from './plan.ts'
import type { PlanInput, PlannedWorker, QueuedTask, Spread } from './plan-input.ts'
import { createRoom } from './room.ts'

/** When a queued task is expected to be RUNNING. Moments are milliseconds since 1970. */
export interface StartEstimate {
  readonly at: number
  readonly earliest: number
  readonly latest: number
  /** On a session worker that is ready by then. */
  readonly warm: boolean
  /** What it rests on, for people. */
  readonly how: string
}

const MAX_STEPS = 200
/** So many tasks before the one that is asked about are looked at in each step. */
const WINDOW = 24
/** Until a worker that was told to end has left its GPUs. */
const END_MS = 1_000
/** So many must have started before the pace of the queue says anything; where more than the window are left then, it is told from that. */
const LEAST_STARTED = 20

/**
 * When the task starts to work, by carrying out plan after plan in a made-up time in which runs and loads take as long as they lately did.
 * `null` where that cannot be told: it is not queued, waits for what nobody knows the end of, or what is known of the runs is too little. A
 * task far back in the queue is estimated by the pace of those before it. The work is bounded whatever the length of the queue.
 */
export function estimateStart(input: PlanInput, taskId: TaskId): StartEstimate | null {
  const ordered = inOrder(input)
  const position = ordered.findIndex(({ id }) => id === taskId)
  const task = ordered[position]
  if (task === undefined) return null
  const queue = ordered.slice(0, position + 1)
  const middle = run(input, queue, task, 'middle')
  if (middle === null) return null
  const low = run(input, queue, task, 'low')
  const high = run(input, queue, task, 'high')
  return {
    at: middle.at,
    earliest: Math.min(middle.at, low?.at ?? middle.at),
    latest: Math.max(middle.at, high?.at ?? middle.at),
    warm: middle.warm,
    how: middle.how,
  }
}

interface Start {
  readonly at: number
  readonly warm: boolean
  readonly how: string
}

type Pace = keyof Spread

/** A worker whose time passes. */
interface Actor {
  planned: PlannedWorker
  /** When each of its tasks is done; `Infinity`: nobody knows. */
  readonly dones: { readonly since: number; readonly at: number; readonly owner: string }[]
  readonly readyAt: number
  goneAt: number
}

function run(input: PlanInput, queue: readonly QueuedTask[], asked: QueuedTask, pace: Pace): Start | null {
  let { now } = input
  const loadOf = (hash: string): number => input.factsOf(hash).loadMs?.[pace] ?? UNKNOWN_LOAD_MS
  const runOf = (hash: string): number => input.factsOf(hash).runMs?.[pace] ?? Infinity
  const waiting = [...queue]
  const actors = new Map(input.workers.map((worker) => [worker.id, toActor(worker, now, loadOf, runOf)]))
  const foreign = createRoom(input).gpus.map(({ gpu, foreignMb }) => ({ gpu, foreignMb }))
  let started = 0

  for (let step = 0; step < MAX_STEPS; step += 1) {
    const looked = waiting.length <= WINDOW + 1 ? waiting : [...waiting.slice(0, WINDOW), asked]
    const workers = [...actors.values()].map(({ planned }) => planned)
    const { actions, wakeAt } = plan({
      ...input,
      now,
      gpus: foreign.map(({ gpu, foreignMb }) => ({ ...gpu, usedMb: foreignMb + usedBy(workers, gpu.id) })),
      queue: looked,
      workers,
      wanted: [],
    })
    const gone = new Set<TaskId>()
    for (const [at, action] of actions.entries()) {
      if (action.kind === 'end') {
        const actor = actors.get(action.workerId)
        if (actor === undefined) continue
        actor.goneAt = now + END_MS
        actor.planned = { ...actor.planned, phase: 'ending' }
        continue
      }
      const task = looked.find(({ id }) => id === action.taskId)
      if (task === undefined) continue
      const load = loadOf(task.specHash)
      if (action.kind === 'start') {
        if (task === asked) return { at: now + load, warm: false, how: told(started, false) }
        const actor = created(task, action.claim, `${step}.${at}` as WorkerId, now, load)
        actor.dones.push({ since: now, at: actor.readyAt + runOf(task.specHash), owner: task.owner })
        actors.set(actor.planned.id, actor)
      } else {
        const actor = actors.get(action.workerId)
        if (actor === undefined) continue
        const begin = Math.max(now, actor.readyAt)
        if (task === asked) return { at: begin, warm: action.warm, how: told(started, action.warm) }
        actor.dones.push({ since: now, at: begin + runOf(task.specHash), owner: task.owner })
        refresh(actor, now)
      }
      gone.add(task.id)
      started += 1
    }
    for (let at = waiting.length - 1; at >= 0; at -= 1) {
      const id = waiting[at]?.id
      if (id !== undefined && gone.has(id)) waiting.splice(at, 1)
    }
    if (started >= LEAST_STARTED && waiting.length > WINDOW + 1 && now > input.now) break
    const next = nextMoment(actors, wakeAt, now)
    if (next === null) return null
    now = next
    pass(actors, now)
  }
  const passed = now - input.now
  if (started < LEAST_STARTED || passed === 0) return null
  return {
    at: Math.round(input.now + (passed * queue.length) / started),
    warm: asked.session !== null,
    how: `By the pace of the first ${started} of the ${queue.length - 1} tasks before it.`,
  }
}

/** What the workers are taken to use of a GPU, in MB. */
function usedBy(workers: readonly PlannedWorker[], gpuId: GpuId): number {
  return workers
    .filter(({ claim }) => claim.gpuIds.includes(gpuId))
    .reduce((sum, { usedMb, claim }) => sum + (usedMb.get(gpuId) ?? claim.memoryMb ?? 0), 0)
}

function told(started: number, isWarm: boolean): string {
  const before = started === 0 ? 'It is next' : `After ${started} task${started === 1 ? '' : 's'} before it`
  return `${before}, on ${isWarm ? 'a session worker that is warm by then' : 'a worker that has to load first'}.`
}

function toActor(
  planned: PlannedWorker,
  now: number,
  loadOf: (hash: string) => number,
  runOf: (hash: string) => number,
): Actor {
  // What should be over by now is believed to be about to.
  const upcoming = (at: number): number => Math.max(at, now + 1)
  const readyAt = planned.readyAt ?? upcoming(planned.startedAt + loadOf(planned.specHash))
  return {
    planned,
    readyAt,
    dones: planned.runningSince.map((since, at) => ({
      since,
      at: upcoming(Math.max(since, readyAt) + runOf(planned.specHash)),
      owner: planned.runningOwners[at] ?? '',
    })),
    goneAt: planned.phase === 'ending' ? now + END_MS : Infinity,
  }
}

function created(
  { presetId, specHash, session, owner }: QueuedTask,
  claim: PlannedWorker['claim'],
  id: WorkerId,
  now: number,
  load: number,
): Actor {
  return {
    readyAt: now + load,
    dones: [],
    goneAt: Infinity,
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
      runningSince: [now],
      runningOwners: [owner],
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
  for (const { planned, readyAt, dones, goneAt } of actors.values()) {
    next = Math.min(next, goneAt, ...dones.map(({ at }) => at))
    if (planned.phase === 'starting') next = Math.min(next, readyAt)
  }
  return next === Infinity ? null : Math.max(next, now + 1)
}

/** What has happened by `now` to the workers. */
function pass(actors: Map<WorkerId, Actor>, now: number): void {
  for (const [id, actor] of actors) {
    if (actor.goneAt <= now) {
      actors.delete(id)
      continue
    }
    const left = actor.dones.filter(({ at }) => at > now)
    const isDone = left.length < actor.dones.length
    const isReady = actor.planned.phase === 'starting' && actor.readyAt <= now
    if (!isDone && !isReady) continue
    const served = actor.planned.tasksServed + actor.dones.length - left.length
    actor.dones.splice(0, actor.dones.length, ...left)
    actor.planned = { ...actor.planned, tasksServed: served }
    if (actor.planned.phase === 'starting')
      actor.planned = { ...actor.planned, phase: 'ready', readyAt: actor.readyAt }
    if (actor.planned.mode === 'ONE_OFF' && left.length === 0 && actor.goneAt === Infinity) {
      actor.planned = { ...actor.planned, phase: 'ending' }
      actor.goneAt = now + END_MS
    }
    refresh(actor, now)
  }
}

function refresh(actor: Actor, now: number): void {
  const { planned, dones } = actor
  actor.planned = {
    ...planned,
    runningSince: dones.map(({ since }) => since),
    runningOwners: dones.map(({ owner }) => owner),
    idleSince: dones.length === 0 && planned.phase === 'ready' ? now : null,
  }
}
