import {
  plan,
  type Plan,
  type PlanAction,
  type PlanInput,
  type PlannedGpu,
  type PlannedWorker,
  type PlanRules,
  type QueuedTask,
  type WantedSession,
  type WorkerFacts,
} from '../../src/planner/index.ts'
import type { GpuId, TaskId, WorkerId } from '../../src/ids.ts'
import type { GpuNeed, SessionOptions } from '../../src/spec.ts'
import { NO_FACTS, NOW, presetId, task } from './situation.ts'

/** What a preset of a made-up world is like, known to the planner or not. */
export interface WorldPreset {
  readonly name: string
  readonly gpus: GpuNeed
  readonly session: SessionOptions | null
  readonly loadMs: number
  /** What a worker really uses of each of its GPUs; more than it claims, too. */
  readonly useMb: number
  /** How the planner is told to know it. */
  readonly facts: WorkerFacts
}

export interface WorldTask {
  readonly at: number
  readonly preset: WorldPreset
  readonly runMs: number
  readonly owner: string
  readonly priority: number
  readonly affinity: string | null
}

/** Something that happens from outside. */
export interface WorldChange {
  readonly at: number
  readonly gpu: number
  readonly foreignMb?: number
  readonly unusable?: string | null
  /** One of the workers dies; its tasks are tried again. */
  readonly death?: number
  readonly blocked?: string | null
}

export interface World {
  readonly gpus: readonly PlannedGpu[]
  readonly tasks: readonly WorldTask[]
  readonly changes: readonly WorldChange[]
  /** What the API keys may have; that of a task has the name of its owner. */
  readonly keys?: PlanInput['keys']
  readonly maxWorkers: number
  readonly rules: PlanRules
  /** Presets whose session workers are wanted though nobody asks, and how many of each. */
  readonly wanted?: readonly { readonly preset: WorldPreset; readonly count: number }[]
  /** From a worker's end until its memory is seen free. */
  readonly releaseMs: number
}

export interface Told {
  readonly startedAt: ReadonlyMap<TaskId, number>
  /** Sum over all tasks from submission to RUNNING. */
  readonly waitMs: number
  readonly loads: number
  readonly evictions: number
  readonly plans: number
  readonly endedAt: number
}

/** What is learned from what happens. */
export interface Learned {
  factsOf(specHash: string): WorkerFacts
  loaded(specHash: string, ms: number): void
  ran(specHash: string, ms: number): void
}

interface Actor {
  readonly id: WorkerId
  readonly preset: WorldPreset
  readonly claim: PlannedWorker['claim']
  readonly startedAt: number
  readonly owner: string | null
  readyAt: number | null
  endingAt: number | null
  idleSince: number | null
  served: number
  readonly running: {
    readonly id: TaskId
    readonly owner: string
    readonly keyId: string | null
    readonly since: number
    doneAt: number | null
    readonly runMs: number
    readonly given: WorldTask
    readonly queued: QueuedTask
  }[]
  readonly affinities: Map<string, number>
}

/** Sessions that are wanted come and go for ever. */
const LONGEST_LIFE_MS = 600_000
const RETRY_MS = 700

/** Carries out plans in virtual time until nothing happens any more. `observe` sees each plan before it is carried out, and may throw. */
export function live(
  world: World,
  observe: (input: PlanInput, made: Plan, world: { readonly foreignMb: ReadonlyMap<GpuId, number> }) => void,
  /** Which plan is carried out; another than the planner's own to compare it with. */
  planner: (input: PlanInput) => Plan = plan,
  /** What the planner is told to know of a preset, where that changes while the world lives. */
  learned: Learned | null = null,
): Told {
  let now = NOW
  let blocked: string | null = null
  const wanted = (world.wanted ?? []).flatMap(({ preset, count }): WantedSession[] =>
    preset.session === null
      ? []
      : [
          {
            presetId: presetId(preset.name),
            specHash: hashOf(preset),
            gpus: preset.gpus,
            session: preset.session,
            count,
            notBefore: 0,
          },
        ],
  )
  const gpus = new Map(world.gpus.map((there) => [there.id, there]))
  const foreignMb = new Map(world.gpus.map(({ id }) => [id, 0]))
  const queue = new Map<TaskId, { readonly task: QueuedTask; readonly given: WorldTask }>()
  const actors = new Map<WorkerId, Actor>()
  const startedAt = new Map<TaskId, number>()
  const facts = new Map(
    [...world.tasks, ...(world.wanted ?? [])].map(({ preset }) => [hashOf(preset), preset.facts]),
  )
  const arrivals = world.tasks
    .map((given, index) => ({ given, index }))
    .sort((a, b) => a.given.at - b.given.at)
  const changes = [...world.changes].sort((a, b) => a.at - b.at)
  let [waitMs, loads, evictions, plans, workerCount] = [0, 0, 0, 0, 0]

  for (;;) {
    arrive()
    const wakeAt = settle()
    const next = nextMoment(wakeAt)
    if (next === Infinity || (wanted.length > 0 && next > NOW + LONGEST_LIFE_MS)) break
    now = next
  }
  return { startedAt, waitMs, loads, evictions, plans, endedAt: now }

  function arrive(): void {
    while (arrivals[0] !== undefined && NOW + arrivals[0].given.at <= now) {
      const { given, index } = arrivals.shift() as (typeof arrivals)[number]
      const { preset, owner, priority, affinity } = given
      const arrived = task(`task-${String(index).padStart(4, '0')}`, {
        preset: preset.name,
        owner,
        keyId: owner,
        priority,
        affinity,
        queuedAt: NOW + given.at,
        gpus: preset.gpus,
        session: preset.session,
      })
      queue.set(arrived.id, { task: arrived, given })
    }
    while (changes[0] !== undefined && NOW + changes[0].at <= now) {
      const change = changes.shift() as WorldChange
      const there = world.gpus[change.gpu]
      if (there === undefined) continue
      if (change.foreignMb !== undefined) foreignMb.set(there.id, change.foreignMb)
      if (change.unusable !== undefined) gpus.set(there.id, { ...there, unusable: change.unusable })
      if (change.blocked !== undefined) blocked = change.blocked
      if (change.death !== undefined) die([...actors.values()][change.death])
    }
    for (const actor of actors.values()) pass(actor)
  }

  function die(actor: Actor | undefined): void {
    if (actor === undefined || actor.endingAt !== null) return
    actor.endingAt = now
    for (const { id, given, queued } of actor.running.splice(0)) {
      startedAt.delete(id)
      queue.set(id, { given, task: { ...queued, queuedAt: now, retryAt: now + RETRY_MS } })
    }
  }

  function pass(actor: Actor): void {
    if (actor.endingAt !== null) {
      if (actor.endingAt + world.releaseMs <= now) actors.delete(actor.id)
      return
    }
    if (actor.readyAt === null && actor.startedAt + actor.preset.loadMs <= now) {
      actor.readyAt = actor.startedAt + actor.preset.loadMs
      learned?.loaded(hashOf(actor.preset), actor.preset.loadMs)
      for (const running of actor.running) begin(actor, running)
      if (actor.running.length === 0) actor.idleSince = now
    }
    for (const done of actor.running.filter(({ doneAt }) => doneAt !== null && doneAt <= now)) {
      actor.running.splice(actor.running.indexOf(done), 1)
      actor.served += 1
      learned?.ran(hashOf(actor.preset), done.runMs)
      if (actor.running.length === 0) actor.idleSince = now
      if (actor.preset.session === null) actor.endingAt = now
    }
  }

  function begin(actor: Actor, running: Actor['running'][number]): void {
    running.doneAt = now + running.runMs
    const given = world.tasks[Number(running.id.slice(5))]
    waitMs += now - NOW - (given?.at ?? 0)
    startedAt.set(running.id, now)
    actor.idleSince = null
  }

  /** Plans until a plan has nothing to do. */
  function settle(): number | null {
    for (let round = 0; round < 100; round += 1) {
      const input = toInput()
      const made = planner(input)
      plans += 1
      observe(input, made, { foreignMb })
      if (made.actions.length === 0) return made.wakeAt
      for (const action of made.actions) carryOut(action)
    }
    throw new Error('The plans never come to rest.')
  }

  function carryOut(action: PlanAction): void {
    if (action.kind === 'end') {
      const actor = known(action.workerId)
      actor.endingAt = now
      if (action.forTask !== null) evictions += 1
      return
    }
    if (action.kind === 'start' && action.taskId === null) {
      const preset = world.wanted?.find((one) => presetId(one.preset.name) === action.presetId)?.preset
      if (preset === undefined) throw new Error('A start of what is not wanted.')
      begun(preset, action.claim, null)
      return
    }
    const taken = action.taskId === null ? undefined : queue.get(action.taskId)
    if (taken === undefined) throw new Error('A start of what is not queued.')
    queue.delete(taken.task.id)
    const running = {
      id: taken.task.id,
      owner: taken.task.owner,
      keyId: taken.task.keyId,
      since: now,
      doneAt: null,
      runMs: taken.given.runMs,
      given: taken.given,
      queued: taken.task,
    }
    if (action.kind === 'start') {
      const owner = taken.task.session?.isolation === 'owner' ? taken.task.owner : null
      begun(taken.given.preset, action.claim, owner).running.push(running)
      return
    }
    const actor = known(action.workerId)
    actor.running.push(running)
    actor.idleSince = null
    if (taken.task.affinity !== null) actor.affinities.set(taken.task.affinity, now)
    if (actor.readyAt !== null) begin(actor, running)
  }

  function begun(preset: WorldPreset, claim: PlannedWorker['claim'], owner: string | null): Actor {
    workerCount += 1
    loads += 1
    const id = `worker-${String(workerCount).padStart(4, '0')}` as WorkerId
    const actor: Actor = {
      ...{ id, preset, claim, owner, startedAt: now, served: 0, running: [], affinities: new Map() },
      ...{ readyAt: null, endingAt: null, idleSince: null },
    }
    actors.set(id, actor)
    return actor
  }

  function known(id: WorkerId): Actor {
    const actor = actors.get(id)
    if (actor === undefined) throw new Error(`There is no ${id}.`)
    return actor
  }

  function toInput(): PlanInput {
    const workers = [...actors.values()].map((actor): PlannedWorker => ({
      id: actor.id,
      presetId: presetId(actor.preset.name),
      specHash: hashOf(actor.preset),
      mode: actor.preset.session === null ? 'ONE_OFF' : 'SESSION',
      phase: actor.endingAt !== null ? 'ending' : actor.readyAt === null ? 'starting' : 'ready',
      claim: actor.claim,
      usedMb: new Map(actor.claim.gpuIds.map((id) => [id, usedBy(actor)])),
      owner: actor.owner,
      session: actor.preset.session,
      runningSince: actor.running.map(({ since }) => since),
      runningOwners: actor.running.map(({ owner }) => owner),
      runningKeys: actor.running.map(({ keyId }) => keyId),
      retiring: null,
      startedAt: actor.startedAt,
      readyAt: actor.readyAt,
      idleSince: actor.idleSince,
      tasksServed: actor.served,
      affinities: actor.affinities,
    }))
    return {
      now,
      queue: [...queue.values()].map((queued) => queued.task),
      workers,
      gpus: [...gpus.values()].map((there) => ({
        ...there,
        usedMb:
          (foreignMb.get(there.id) ?? 0) +
          [...actors.values()]
            .filter(({ claim }) => claim.gpuIds.includes(there.id))
            .reduce((sum, actor) => sum + usedBy(actor), 0),
      })),
      wanted,
      inForce: new Map(
        [...world.tasks, ...(world.wanted ?? [])].map(({ preset }) => [
          presetId(preset.name),
          hashOf(preset),
        ]),
      ),
      factsOf: (hash) => learned?.factsOf(hash) ?? facts.get(hash) ?? NO_FACTS,
      keys: world.keys ?? new Map(),
      maxWorkers: world.maxWorkers,
      blocked,
      rules: world.rules,
    }
  }

  function usedBy(actor: Actor): number {
    return actor.readyAt === null ? 0 : actor.preset.useMb
  }

  function nextMoment(wakeAt: number | null): number {
    let next = wakeAt ?? Infinity
    if (arrivals[0] !== undefined) next = Math.min(next, NOW + arrivals[0].given.at)
    if (changes[0] !== undefined) next = Math.min(next, NOW + changes[0].at)
    for (const { endingAt, readyAt, startedAt: from, preset, running } of actors.values()) {
      if (endingAt !== null) next = Math.min(next, endingAt + world.releaseMs)
      else if (readyAt === null) next = Math.min(next, from + preset.loadMs)
      else for (const { doneAt } of running) next = Math.min(next, doneAt ?? Infinity)
    }
    return Math.max(next, now + 1)
  }
}

function hashOf({ name }: WorldPreset): string {
  return `hash of ${name}`
}

/** Numbers from 0 up to 1, evenly spread and the same for the same seed (Mulberry32). */
export function randomFrom(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixedUp = Math.imul(state ^ (state >>> 15), state | 1)
    mixedUp = (mixedUp + Math.imul(mixedUp ^ (mixedUp >>> 7), mixedUp | 61)) ^ mixedUp
    return ((mixedUp ^ (mixedUp >>> 14)) >>> 0) / 2 ** 32
  }
}
