import { inOrder } from '../../src/planner/order.ts'
import { decide } from '../../src/planner/plan.ts'
import { allowedGpus, plan, type Plan, type PlanInput, type QueuedTask } from '../../src/planner/index.ts'
import type { GpuId, TaskId, WorkerId } from '../../src/ids.ts'

/** Throws where a plan breaks a rule that holds for each plan by itself. */
export function checkPlan(input: PlanInput, made: Plan, foreignMb: ReadonlyMap<GpuId, number>): void {
  const queued = new Map([...input.queue].map((there) => [there.id, there]))
  const seen = new Set<TaskId>()
  const claims = input.workers.map(({ claim, usedMb }) => ({ claim, usedMb }))
  const assigned = new Map<WorkerId, number>()
  for (const action of made.actions) {
    if (action.kind !== 'end' && action.taskId !== null) {
      check(!seen.has(action.taskId), `task ${action.taskId} is given away twice`)
      check(queued.has(action.taskId), `task ${action.taskId} is not queued`)
      seen.add(action.taskId)
    }
    if (action.kind === 'start') {
      const asked = queued.get(action.taskId ?? ('' as TaskId))
      const { gpuIds, memoryMb } = action.claim
      check(
        asked === undefined || gpuIds.length === asked.gpus.count,
        'a claim of another size than the need',
      )
      check(new Set(gpuIds).size === gpuIds.length, 'a GPU twice in one claim')
      for (const id of gpuIds) {
        const there = input.gpus.find((candidate) => candidate.id === id)
        check(there !== undefined && there.unusable === null, `${id} gets nothing new`)
        check(asked?.gpus.ids?.includes(id) ?? true, `${id} is not allowed`)
        const others = claims.filter(({ claim }) => claim.gpuIds.includes(id))
        if (memoryMb === null) check(others.length === 0, `${id} has somebody beside an exclusive claim`)
        check(!others.some(({ claim }) => claim.memoryMb === null), `${id} is held by an exclusive claim`)
        const taken = others.reduce(
          (sum, { claim, usedMb }) => sum + Math.max(claim.memoryMb ?? 0, usedMb.get(id) ?? 0),
          0,
        )
        check(
          memoryMb === null || taken + memoryMb + (foreignMb.get(id) ?? 0) <= there.memoryTotalMb,
          `${id} is over its capacity`,
        )
      }
      claims.push({ claim: action.claim, usedMb: new Map() })
    } else if (action.kind === 'assign') {
      assigned.set(action.workerId, (assigned.get(action.workerId) ?? 0) + 1)
    } else {
      const ended = input.workers.find(({ id }) => id === action.workerId)
      check(ended?.phase === 'ready' && ended.runningSince.length === 0, 'one that is busy is ended')
      check(!assigned.has(action.workerId), 'one that was given a task is ended')
      if (action.forTask === null) continue
      check(ended.session?.pinned === false, 'a pinned one is evicted')
      check(
        (ended.readyAt ?? Infinity) + ended.session.minResidencyMs <= input.now,
        'one is evicted too early',
      )
    }
  }
  for (const [keyId, { maxRunning, spent }] of input.keys) {
    const given = [...seen].filter((id) => queued.get(id)?.keyId === keyId)
    const running = input.workers.flatMap(({ runningKeys }) => runningKeys.filter((each) => each === keyId))
    check(
      given.length === 0 || given.length + running.length <= (maxRunning ?? Infinity),
      `${keyId} has more than it may`,
    )
    check(
      spent === null || spent.until <= input.now || given.every((id) => queued.get(id)?.gpus.count === 0),
      `${keyId} gets GPUs though its time is spent`,
    )
  }
  check(claims.length <= input.maxWorkers, 'more workers than places')
  check(
    input.blocked === null || made.actions.every(({ kind }) => kind !== 'start'),
    'a start while none can be started',
  )
  for (const { id, session, runningSince, tasksServed, phase } of input.workers) {
    const given = assigned.get(id) ?? 0
    if (given === 0) continue
    check(phase !== 'ending', 'a task for one that ends')
    check(runningSince.length + given <= (session?.maxConcurrency ?? 0), 'more tasks than slots')
    check(tasksServed + runningSince.length + given <= (session?.maxTasks ?? Infinity), 'too many tasks')
  }
  for (const id of queued.keys()) {
    const waits = made.waiting.has(id)
    check(seen.has(id) ? !waits : waits, `${id} neither starts nor waits, or both`)
  }
}

/** Throws where a task waits, though no worker serves it, for which there is room that is held back for nobody. */
export function checkNothingFitsLeft(
  input: PlanInput,
  made: Plan,
  foreignMb: ReadonlyMap<GpuId, number>,
): void {
  if (made.actions.length > 0 || input.workers.length >= input.maxWorkers || input.blocked !== null) return
  if (input.queue.length === 0) return
  for (const queued of input.queue) {
    if ((queued.retryAt ?? 0) > input.now || mayBeServed(input, queued)) continue
    const { gpus } = queued
    const { least, isPart } = shareOf(input, queued)
    const free = allowedGpus(gpus, input.gpus).filter(({ id, unusable, memoryTotalMb }) => {
      const others = input.workers.filter(({ claim }) => claim.gpuIds.includes(id))
      const room = memoryTotalMb - (foreignMb.get(id) ?? 0)
      if (unusable !== null || least > room) return false
      if (!isPart) return others.length === 0
      if (others.some(({ claim }) => claim.memoryMb === null)) return false
      const taken = others.reduce(
        (sum, { claim, usedMb }) => sum + Math.max(claim.memoryMb ?? 0, usedMb.get(id) ?? 0),
        0,
      )
      return taken + least <= room
    })
    if (free.length < Number(gpus.count)) continue
    const held = heldBack(input)
    const left = free.filter(({ id }) => held.get(id)?.length === 0)
    check(left.length < Number(gpus.count), `${queued.id} waits though there is room for it`)
  }
}

/** A session worker of its own may be worth waiting for, or its preset may have no more of them. */
function mayBeServed({ workers }: PlanInput, { session, specHash, presetId: preset }: QueuedTask): boolean {
  if (session === null) return false
  return (
    workers.some((there) => there.specHash === specHash && there.phase !== 'ending') ||
    workers.filter((there) => there.presetId === preset).length >= (session.maxWorkers ?? Infinity)
  )
}

function heldBack(input: PlanInput): ReadonlyMap<GpuId, readonly TaskId[]> {
  return new Map(decide(input).room.gpus.map(({ gpu, heldFor }) => [gpu.id, heldFor]))
}

function shareOf(
  input: PlanInput,
  { gpus, specHash }: QueuedTask,
): { readonly least: number; readonly isPart: boolean } {
  const least = Math.max(input.factsOf(specHash).learnedMemoryMb ?? 0, gpus.memoryMb ?? 0)
  return { least, isPart: gpus.share === 'shared' && least > 0 }
}

/** Throws where something starts on what is held back for a task that comes before it. */
export function checkNobodyIsPassed(
  input: PlanInput,
  made: Plan,
  foreignMb: ReadonlyMap<GpuId, number>,
): void {
  const starts = made.actions.filter((action) => action.kind === 'start')
  if (starts.length === 0 || made.waiting.size === 0) return
  const held = heldBack(input)
  const ordered = inOrder(input)
  const places = new Map(ordered.map(({ id }, at) => [id, at]))
  for (const { taskId, claim } of starts) {
    const place = taskId === null ? Infinity : (places.get(taskId) ?? -1)
    for (const id of claim.gpuIds) {
      for (const other of held.get(id) ?? []) {
        const passed = ordered[places.get(other) ?? -1]
        if (passed === undefined || (places.get(other) ?? 0) > place) continue
        const { least, isPart } = shareOf(input, passed)
        const totalMb = input.gpus.find((there) => there.id === id)?.memoryTotalMb ?? 0
        const isBeside =
          isPart && claim.memoryMb !== null && claim.memoryMb + least + (foreignMb.get(id) ?? 0) <= totalMb
        check(isBeside, `${taskId ?? 'a wanted one'} starts on ${id}, which is held back for ${other}`)
      }
    }
  }
}

/** Throws where a task that has let others pass for long enough, and is the first that waits for GPUs, has nothing held back for it. */
export function checkDueHolds(input: PlanInput, made: Plan): void {
  if (made.actions.length > 0 || input.blocked !== null || input.workers.length >= input.maxWorkers) return
  const first = inOrder(input).find(({ id }) => made.waiting.has(id))
  if (first === undefined || made.waiting.get(first.id)?.kind !== 'gpu') return
  if (Math.max(first.queuedAt, first.retryAt ?? 0) + input.rules.maxPassMs > input.now) return
  // What is pinned never goes, and what others use beside us nobody knows.
  if (input.workers.some(({ session }) => session?.pinned === true)) return
  const { least } = shareOf(input, first)
  const ours = new Map<GpuId, number>()
  for (const { usedMb } of input.workers)
    for (const [id, mb] of usedMb) ours.set(id, (ours.get(id) ?? 0) + mb)
  const usable = allowedGpus(first.gpus, input.gpus).filter(
    ({ id, unusable, memoryTotalMb, usedMb }) =>
      unusable === null && memoryTotalMb - (usedMb ?? 0) + (ours.get(id) ?? 0) >= least,
  )
  if (usable.length < Number(first.gpus.count)) return
  const holding = [...heldBack(input).values()].filter((ids) => ids.includes(first.id)).length
  check(holding === Number(first.gpus.count), `${first.id} is due and has ${holding} GPUs held back`)
}

/** Throws where the plan of the same input in another order is another plan. */
export function checkOrderDoesNotMatter(
  input: PlanInput,
  made: Plan,
  shuffle: <T>(items: readonly T[]) => T[],
): void {
  const again = plan({
    ...input,
    queue: shuffle([...input.queue]),
    workers: shuffle(input.workers),
    gpus: shuffle(input.gpus),
  })
  check(told(again) === told(made), `another plan:\n${told(again)}\n${told(made)}`)
}

function told({ actions, waiting, wakeAt }: Plan): string {
  return JSON.stringify([actions, [...waiting], wakeAt])
}

/**
 * Watches every task: the first one in order starts within the bound, and so each one within as many times the bound as there ever were tasks
 * before it. Throws where one waits longer.
 */
export function createPatience(boundMs: number): (input: PlanInput) => void {
  const waits = new Map<TaskId, { readonly since: number; readonly before: Set<TaskId> }>()
  let first: { readonly id: TaskId; readonly since: number } | null = null
  return (input) => {
    const ordered = inOrder(input)
    const ids = ordered.map(({ id }) => id)
    for (const id of waits.keys()) if (!ids.includes(id)) waits.delete(id)
    for (const [at, id] of ids.entries()) {
      const wait = waits.get(id) ?? { since: input.now, before: new Set() }
      waits.set(id, wait)
      for (let before = 0; before < at; before += 1) wait.before.add(ids[before] ?? id)
      const waitedMs = input.now - wait.since
      check(waitedMs <= boundMs * (1 + wait.before.size), `${id} has waited for ${waitedMs} ms`)
    }
    const [id] = ids
    first = id === undefined ? null : first?.id === id ? first : { id, since: input.now }
    const firstMs = first === null ? 0 : input.now - first.since
    check(firstMs <= boundMs, `${id ?? ''} has been first for ${firstMs} ms`)
  }
}

function check(holds: boolean, otherwise: string): asserts holds {
  if (!holds) throw new Error(otherwise)
}
