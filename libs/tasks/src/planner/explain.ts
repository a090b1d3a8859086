import type { PlanInput, PlannedWorker } from './plan-input.ts'
import type { GpuRoom } from './room.ts'
import { idleEndAt, oldAt } from './sessions.ts'
import { durationText, gpuText, listText, numberText } from './wording.ts'

/** Who has the GPU, and what of it is left for whom, by the room that a plan leaves; for people. */
export function explainGpu(room: GpuRoom): string {
  const { gpu, holders, foreignMb, heldFor } = room
  const held = holders.map((holder) => {
    const measured = holder.worker.usedMb.get(gpu.id)
    const { memoryMb } = holder.worker.claim
    const claim = memoryMb === null ? 'has it as a whole' : `claims ${numberText(memoryMb)} MB`
    const used = measured === undefined ? '' : ` and uses ${numberText(measured)} MB`
    const end = holder.ending ? ', until it is gone' : ''
    return `worker ${holder.worker.id} (${holder.worker.presetId}) ${claim}${used}${end}`
  })
  const parts = [held.length === 0 ? 'No worker has any of it' : sentence(listText(held))]
  if (foreignMb > 0) parts.push(`${numberText(foreignMb)} MB are in use by other programs`)
  if (room.now.whole === 0 && gpu.memoryTotalMb > 0) {
    parts.push(`${numberText(room.availableMb)} of ${numberText(gpu.memoryTotalMb)} MB are free`)
  }
  const state =
    gpu.unusable === null
      ? `${parts.join('; ')}.`
      : `It gets nothing new: ${withStop(gpu.unusable)} ${parts.join('; ')}.`
  return heldFor.length === 0
    ? state
    : `${state} It is held back for ${listText(heldFor.slice(0, 3).map((id) => `task ${id}`))}${heldFor.length > 3 ? ' and others' : ''}.`
}

/** What the worker does, how long it stays and why; for people. */
export function explainWorker(input: PlanInput, worker: PlannedWorker): string {
  const { now } = input
  const { phase, retiring, startedAt, readyAt, idleSince, runningSince, mode } = worker
  if (phase === 'ending') {
    const gpus = input.gpus.filter(({ id }) => worker.claim.gpuIds.includes(id)).map(gpuText)
    return gpus.length === 0
      ? 'It ends.'
      : `It ends and keeps its claim until its memory on ${listText(gpus)} is seen free again.`
  }
  const state =
    phase === 'starting'
      ? `It has been starting for ${durationText(now - startedAt)}${expectedLoad(input, worker)}`
      : mode === 'ONE_OFF'
        ? `It works on its task since ${durationText(now - (runningSince[0] ?? startedAt))}`
        : runningSince.length > 0
          ? `It has been warm for ${durationText(now - (readyAt ?? now))} and works on ${runningSince.length} task${runningSince.length === 1 ? '' : 's'}`
          : `It has been warm for ${durationText(now - (readyAt ?? now))} and idle for ${durationText(now - (idleSince ?? now))}`
  if (retiring !== null)
    return `${state}. It takes no more tasks and ends once it is idle: ${withStop(retiring)}`
  if (mode === 'ONE_OFF') return `${state}.`
  const ends: string[] = []
  const idleAt = idleEndAt({ worker, tasks: runningSince.length, ending: false, leaving: false })
  if (idleAt !== null)
    ends.push(
      idleAt > now ? `in ${durationText(idleAt - now)} if it stays idle` : 'when nothing keeps it warm',
    )
  const old = oldAt(worker)
  if (old !== null) ends.push(`in ${durationText(Math.max(0, old - now))} for its age, once it is idle`)
  if (ends.length > 0) return `${state}. It ends ${ends.join(', or ')}.`
  return `${state}. ${worker.session?.pinned === true ? 'It is pinned: it stays.' : 'It stays until its place is needed.'}`
}

function expectedLoad({ factsOf }: PlanInput, { specHash }: PlannedWorker): string {
  const { loadMs } = factsOf(specHash)
  return loadMs === null ? '' : `; others took about ${durationText(loadMs.middle)}`
}

function sentence(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1)
}

function withStop(text: string): string {
  return text.endsWith('.') ? text : `${text}.`
}
