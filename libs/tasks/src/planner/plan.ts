import type { GpuClaim } from '../worker.ts'
import { createCaps } from './caps.ts'
import { createDemands, type Demand, type Kind } from './demand.ts'
import { byCost, evictableAt, evictionCost, UNKNOWN_LOAD_MS, type Candidate } from './eviction.ts'
import { orderOf } from './order.ts'
import { byLeave, createLeave, findNow, findRelease, findReservation } from './placement.ts'
import type { Plan, PlanAction, PlanInput, QueuedTask, Waiting, WaitingTasks } from './plan-input.ts'
import { createReasons, type Untold } from './reasons.ts'
import { createRoom, type GpuRoom, type Room, type WorkerRoom } from './room.ts'
import { idleEndAt, idleEndings, isServing, lookAhead, oldAt, uselessness } from './sessions.ts'
import { createWaitingTasks } from './waiting.ts'
import { durationText, roughly } from './wording.ts'

/**
 * Decides which task starts where, what waits, which idle session ends, and says why. Pure: the same input, in any order, gives the same
 * plan.
 *
 * Tasks are looked at in the order of `inOrder`. One that cannot start lets later ones pass for `maxPassMs`; then what it will get is held
 * back for it. What becomes free by workers that end is held back at once for the first task that needs it.
 */
export function plan(input: PlanInput): Plan {
  return decide(input).plan
}

/** The plan and the room that it leaves, with what is held back in it for whom. */
export function decide(input: PlanInput): { readonly plan: Plan; readonly room: Room } {
  const { now, queue: tasks, rules, blocked, wanted, inForce } = input
  const room = createRoom(input)
  const demands = createDemands(input, room)
  const reasons = createReasons(input)
  const caps = createCaps(input)
  const actions: PlanAction[] = []
  /** Hashes that tasks looked at so far are served by. */
  const asked = new Set<string>()
  let hasPlaceBlocker = false
  let wakeAt = Infinity
  const wake = (at: number | null): void => {
    if (at !== null && at > now && at < wakeAt) wakeAt = at
  }

  endUseless()
  const waiting = lookAtAll()
  startWanted()
  for (const { room: worker, reason } of idleEndings(room, input)) end(worker, null, reason)
  wakeForSessions()
  return { plan: { actions, waiting, wakeAt: wakeAt === Infinity ? null : wakeAt }, room }

  function lookAtAll(): WaitingTasks {
    // What is read of each task is read in the order in which they lie in memory; in a long queue that takes less time than all the rest.
    const dueAts = new Float64Array(tasks.length)
    const kinds = tasks.map((task, at): Kind | null => {
      const { retryAt, queuedAt } = task
      dueAts[at] = (retryAt === null ? queuedAt : Math.max(queuedAt, retryAt)) + rules.maxPassMs
      return retryAt !== null && retryAt > now ? null : demands.kindOf(task)
    })
    const positions = orderOf(tasks, input)
    const whys: (Waiting | Untold | null)[] = []
    let size = 0
    for (const position of positions) {
      const task = tasks[position]
      if (task === undefined) continue
      const kind = kinds[position] ?? null
      const why =
        kind === null
          ? retryLater(task)
          : (hold(task) ?? look(task, demands.of(kind, task), dueAts[position] ?? 0))
      if (why === null) caps.started(task)
      else size += 1
      whys.push(why)
    }
    return createWaitingTasks(tasks, positions, whys, size)
  }

  function hold(task: QueuedTask): Waiting | null {
    const held = caps.hold(task)
    if (held !== null) wake(input.keys.get(task.keyId ?? '')?.spent?.until ?? null)
    return held
  }

  function retryLater({ retryAt }: QueuedTask): Waiting {
    wake(retryAt)
    return reasons.retry(retryAt ?? now)
  }

  /** Gives why the task waits; `null`: it starts. */
  function look(task: QueuedTask, demand: Demand, dueAt: number): Waiting | Untold | null {
    if (dueAt > now && dueAt < wakeAt && !demand.isBeyondReserve) wakeAt = dueAt
    if (demand.session === null) return acquire(task, demand, dueAt, Infinity)
    const result = serve(task, demand, dueAt)
    if (!demand.isAsked) {
      demand.isAsked = true
      asked.add(demand.specHash)
    }
    return result
  }

  function serve(task: QueuedTask, demand: Demand, dueAt: number): Waiting | Untold | null {
    const isDue = dueAt <= now
    const { server, serving, waitMs, loadMs } = lookAhead(task, demand, room, input, isDue)
    if (server !== null) {
      server.room.tasks += 1
      const { id } = server.room.worker
      actions.push({
        kind: 'assign',
        taskId: task.id,
        workerId: id,
        warm: server.isWarm,
        reason: server.reason,
      })
      return null
    }
    if (blocked !== null) return reasons.blocked
    const slots = demand.session?.maxConcurrency ?? 1
    if (demand.onComing < demand.coming * slots) {
      demand.onComing += 1
      return reasons.session(demand, serving, waitMs, loadMs)
    }
    const isFull = isAtMost(demand)
    if (serving === 0)
      return isFull ? makeRoomInPreset(task, demand, dueAt) : acquire(task, demand, dueAt, Infinity)
    const saves = isDue ? Infinity : waitMs - loadMs
    if (!isFull && saves > 0 && demand.failedAtCost < saves) {
      const result = acquire(task, demand, Infinity, saves)
      if (result === null || result.kind === 'release') return result
    }
    demand.behind += 1
    return reasons.session(demand, serving, waitMs, loadMs)
  }

  /** The preset has as many workers as it may and none that serves the task: an idle one has to go, or one takes no more. */
  function makeRoomInPreset(task: QueuedTask, demand: Demand, dueAt: number): Waiting {
    if (demand.waiting !== null && (demand.isBeyondReserve || dueAt > now)) return demand.waiting
    const ofPreset = ({ worker }: WorkerRoom): boolean =>
      worker.mode === 'SESSION' && worker.presetId === demand.presetId
    const waits = reasons.presetFull(demand)
    if (room.workers.some((worker) => ofPreset(worker) && worker.ending)) return waits
    const [cheapest] = candidates()
      .filter((candidate) => ofPreset(candidate.room))
      .sort(byCost)
    if (cheapest !== undefined) {
      evict(cheapest, task)
      room.promiseSoon([], demand.share, task.id)
      return reasons.release(demand, [])
    }
    demand.waiting = waits
    if (dueAt <= now) {
      demand.isBeyondReserve = true
      holdPlace(task, demand, dueAt, room.workers.filter(ofPreset))
    }
    return waits
  }

  /** Starts a worker for the task, or makes or holds back room for one. Idle sessions go for it if that costs less than the limit. */
  function acquire(task: QueuedTask, demand: Demand, dueAt: number, costLimit: number): Waiting | null {
    if (blocked !== null) return reasons.blocked
    const isDue = dueAt <= now
    if (demand.waiting !== null && demand.failedAtCost >= costLimit && (!isDue || demand.isBeyondReserve)) {
      return demand.waiting
    }
    if (demand.usable.length < demand.count) {
      return fail(demand, Infinity, true, () => reasons.noGpu(demand))
    }
    if (demand.failedAtCost < costLimit) {
      if (room.hasPlace()) {
        const gpus = findNow(demand)
        if (gpus !== null) {
          start(task, demand, gpus)
          return null
        }
      }
      const release = makeRoom(task, demand, costLimit)
      if (release !== null) return release
    }
    if (!room.hasPlace() && room.comingPlaces() <= 0) {
      if (isDue && !hasPlaceBlocker) {
        hasPlaceBlocker = true
        holdPlace(task, demand, dueAt, room.workers)
      }
      const gpusAreFree = demand.usable.filter((gpu) => gpu.isFree(demand.share)).length >= demand.count
      if (gpusAreFree) return fail(demand, costLimit, isDue, () => reasons.places)
    }
    if (isDue && !demand.isBeyondReserve) {
      const reservation = findReservation(demand, createLeave(now, dueAt, input.factsOf))
      if (reservation !== null) {
        const result = reasons.reserved(demand, reservation.gpus)
        room.promiseLater(reservation.gpus, demand.share, reservation.blockers, task.id)
        demand.failedAtCost = Infinity
        demand.waiting = reasons.gpu(demand)
        return result
      }
    }
    return fail(demand, costLimit, isDue, () => reasons.gpu(demand))
  }

  function fail(demand: Demand, cost: number, isBeyondReserve: boolean, reason: () => Waiting): Waiting {
    demand.failedAtCost = Math.max(demand.failedAtCost, cost)
    demand.isBeyondReserve ||= isBeyondReserve
    // What is held back by now may be another reason than before.
    demand.waiting = reason()
    return demand.waiting
  }

  function makeRoom(task: QueuedTask, demand: Demand, costLimit: number): Waiting | null {
    const idle = candidates()
    const release = findRelease(demand, idle)
    if (release === null) {
      demand.failedAtCost = Infinity
      return null
    }
    const going = [...release.evict]
    if (!room.hasPlace() && room.comingPlaces() + going.length <= 0) {
      const [cheapest] = idle.filter((candidate) => !going.includes(candidate)).sort(byCost)
      if (cheapest === undefined) {
        demand.failedAtCost = Infinity
        return null
      }
      going.push(cheapest)
    }
    const cost = going.reduce((sum, candidate) => sum + candidate.cost, 0)
    if (going.length > 0 && cost >= costLimit) {
      demand.failedAtCost = cost
      return null
    }
    for (const candidate of going) evict(candidate, task)
    room.promiseSoon(release.gpus, demand.share, task.id)
    if (demand.session !== null) expectAnother(demand)
    return reasons.release(demand, release.gpus)
  }

  function candidates(): readonly Candidate[] {
    return room.workers.flatMap((candidate): Candidate[] => {
      const { worker } = candidate
      if (worker.phase !== 'ready' || candidate.ending || candidate.tasks > 0) return []
      if (asked.has(worker.specHash)) return []
      const at = evictableAt(worker, now)
      if (at === null || at > now) return []
      const isExpired = (idleEndAt(candidate) ?? Infinity) <= now
      return [{ room: candidate, cost: isExpired ? 0 : evictionCost(input.factsOf(worker.specHash)) }]
    })
  }

  function evict({ room: evicted }: Candidate, task: QueuedTask): void {
    const { loadMs, tasksPerHour } = input.factsOf(evicted.worker.specHash)
    const load = durationText(loadMs?.middle ?? UNKNOWN_LOAD_MS)
    end(
      evicted,
      task,
      `Evicted for task ${task.id}: reloading it costs about ${load} and it is asked for about ${roughly(tasksPerHour)} times an hour.`,
    )
  }

  function end(ended: WorkerRoom, task: QueuedTask | null, reason: string): void {
    room.end(ended)
    actions.push({ kind: 'end', workerId: ended.worker.id, forTask: task?.id ?? null, reason })
  }

  function start(task: QueuedTask | null, demand: Demand, gpus: readonly GpuRoom[]): void {
    const reason = reasons.start(demand, gpus, task === null)
    room.start(gpus, demand.share)
    const claim: GpuClaim = {
      gpuIds: gpus.map(({ gpu }) => gpu.id),
      memoryMb: gpus.length === 0 ? null : demand.share.memoryMb,
    }
    actions.push({ kind: 'start', taskId: task?.id ?? null, presetId: demand.presetId, claim, reason })
    if (demand.session === null) return
    expectAnother(demand)
    if (task !== null) demand.onComing += 1
  }

  function expectAnother(demand: Demand): void {
    demand.coming += 1
    demand.ofPreset.workers += 1
  }

  function isAtMost({ session, ofPreset }: Demand): boolean {
    const most = session?.maxWorkers ?? null
    return most !== null && ofPreset.workers >= most
  }

  /** One of the workers, whichever is soonest done, takes no more later tasks. */
  function holdPlace(
    task: QueuedTask,
    { share }: Demand,
    dueAt: number,
    workers: readonly WorkerRoom[],
  ): void {
    const leaveOf = createLeave(now, dueAt, input.factsOf)
    const [first] = workers
      .filter(({ ending }) => !ending)
      .map(leaveOf)
      .filter((leave) => leave !== null)
      .sort(byLeave)
    if (first !== undefined) room.promiseLater([], share, [first.room], task.id)
  }

  function endUseless(): void {
    let hashes: Set<string> | null = null
    const hasTasks = (specHash: string): boolean => {
      hashes ??= new Set(tasks.map((task) => task.specHash))
      return hashes.has(specHash)
    }
    for (const worker of room.workers) {
      const reason = uselessness(worker, room, { now, inForce }, hasTasks)
      if (reason !== null) end(worker, null, reason)
    }
  }

  function startWanted(): void {
    if (blocked !== null || wanted.length === 0) return
    const contended = new Set<GpuRoom>()
    for (const demand of demands.all()) {
      if (demand.waiting !== null) for (const gpu of demand.usable) contended.add(gpu)
    }
    const sorted = [...wanted].sort((a, b) =>
      a.presetId === b.presetId ? (a.specHash < b.specHash ? -1 : 1) : a.presetId < b.presetId ? -1 : 1,
    )
    for (const session of sorted) {
      if (session.notBefore > now) {
        wake(session.notBefore)
        continue
      }
      // Nobody could be served by a worker without an owner.
      if (session.session.isolation === 'owner') continue
      const demand = demands.ofWanted(session)
      let live = demand.servers.filter((worker) => isServing(worker, room, now)).length + demand.coming
      while (live < session.count && !isAtMost(demand) && room.hasPlace() && room.comingPlaces() > 0) {
        const free = { ...demand, usable: demand.usable.filter((gpu) => !contended.has(gpu)) }
        const gpus = findNow(free)
        if (gpus === null) break
        start(null, demand, gpus)
        live += 1
      }
    }
  }

  /** What changes by itself with time for the sessions that are there. */
  function wakeForSessions(): void {
    const isWaitedFor = [...demands.all()].some(({ waiting: reason }) => reason !== null)
    for (const worker of room.workers) {
      if (worker.worker.mode !== 'SESSION' || worker.worker.phase !== 'ready' || worker.ending) continue
      wake(oldAt(worker.worker))
      wake(idleEndAt(worker))
      if (isWaitedFor && worker.tasks === 0) wake(evictableAt(worker.worker, now))
    }
  }
}
