import type { Demand } from './demand.ts'
import type { PlanInput, Waiting } from './plan-input.ts'
import type { GpuRoom } from './room.ts'
import { countText, durationText, gpuText, listText, numberText, roundly } from './wording.ts'

/** Why tasks wait and start, in sentences with numbers. Equal ones are one object, so that a long queue costs nothing. */
export interface Reasons {
  readonly blocked: Waiting
  readonly places: Waiting
  retry(at: number): Waiting
  noGpu(demand: Demand): Waiting
  gpu(demand: Demand): Waiting
  reserved(demand: Demand, gpus: readonly GpuRoom[]): Waiting
  release(demand: Demand, gpus: readonly GpuRoom[]): Waiting
  session(demand: Demand, serving: number, waitMs: number, loadMs: number): Untold
  presetFull(demand: Demand): Waiting
  start(demand: Demand, gpus: readonly GpuRoom[], isWanted: boolean): string
}

/** A reason that differs from task to task: it is put into words when somebody asks, and then is one object. */
export type Untold = () => Waiting

export function createReasons({ blocked, maxWorkers, rules }: PlanInput): Reasons {
  const known = new Map<string, Waiting>()
  const shared = (kind: Waiting['kind'], reason: string): Waiting => {
    const waiting = known.get(reason) ?? { kind, reason }
    known.set(reason, waiting)
    return waiting
  }
  const retries = new Map<number, Waiting>()
  const passText = durationText(rules.maxPassMs)

  /** How what is free compares to what is needed. */
  function gpuReason({ count, share, usable }: Demand): string {
    const free = usable.filter((gpu) => gpu.isFree(share))
    const [most] = [...usable].sort((a, b) => b.availableMb - a.availableMb || a.gpu.index - b.gpu.index)
    if (share.memoryMb !== null && count === 1 && most !== undefined && free.length === 0) {
      return usable.length === 1
        ? `${freeText(most)} and the preset claims ${numberText(share.memoryMb)}.`
        : `The preset claims ${numberText(share.memoryMb)} MB on one of ${usable.length} GPUs; the most is free on ${gpuText(most.gpu)}: ${numberText(most.availableMb)} of ${numberText(most.gpu.memoryTotalMb)} MB.`
    }
    const short = usable.find(({ capMb }) => capMb < share.leastMb)
    if (short !== undefined && share.memoryMb === null && free.length < count) {
      return `It needs ${countText(count, 'GPU')} with ${numberText(share.leastMb)} MB; ${gpuText(short.gpu)} has ${numberText(short.foreignMb)} of ${numberText(short.gpu.memoryTotalMb)} MB in use by other programs.`
    }
    const what =
      share.memoryMb === null
        ? countText(count, 'GPU')
        : `${numberText(share.memoryMb)} MB on each of ${countText(count, 'GPU')}`
    return `It needs ${what}; ${free.length} of the ${usable.length} that it may use ${free.length === 1 ? 'is' : 'are'} free.`
  }

  return {
    blocked: { kind: 'blocked', reason: blocked ?? '' },
    places: { kind: 'places', reason: `All ${maxWorkers} places for workers are taken (MAX_WORKERS).` },

    retry(at) {
      let waiting = retries.get(at)
      if (waiting === undefined) {
        waiting = { kind: 'retry', reason: `It is tried again at ${new Date(at).toISOString()}.` }
        retries.set(at, waiting)
      }
      return waiting
    },

    noGpu({ count, share, allowed, usable }) {
      const reason =
        allowed.length < count
          ? `It needs ${countText(count, 'GPU')}, but ${allowed.length} of those that it may use ${allowed.length === 1 ? 'is' : 'are'} there.`
          : `It needs ${countText(count, 'GPU')}, but only ${usable.length} of the ${allowed.length} that it may use can take anything new: ${listText(
              allowed
                .filter((gpu) => !usable.includes(gpu))
                .map(({ gpu }) =>
                  gpu.unusable === null
                    ? `${gpuText(gpu)} has ${numberText(gpu.memoryTotalMb)} MB and workers of the preset needed ${numberText(share.leastMb)}`
                    : `${gpuText(gpu)}: ${gpu.unusable}`,
                ),
            )}`
      return shared('no-gpu', withStop(reason))
    },

    gpu(demand) {
      const { count, share, usable } = demand
      const isHeldBack = usable.filter((gpu) => gpu.isFree(share)).length >= count
      if (!isHeldBack) return shared('gpu', gpuReason(demand))
      const held = usable.filter((gpu) => gpu.heldFor.length > 0)
      return shared(
        'held-back',
        `It needs ${countText(count, 'GPU')}; ${listText(held.map(({ gpu }) => gpuText(gpu)))} ${held.length === 1 ? 'is' : 'are'} held back for ${held.some(({ heldFor }) => heldFor.length > 1) ? 'tasks' : `task ${held[0]?.heldFor[0] ?? ''}`} before it.`,
      )
    },

    reserved(demand, gpus) {
      return shared(
        'gpu',
        `${gpuReason(demand)} It has let others pass for ${passText}; now ${listText(gpus.map(({ gpu }) => gpuText(gpu)))} ${gpus.length === 1 ? 'is' : 'are'} held back for it.`,
      )
    },

    release({ share }, gpus) {
      return shared(
        'release',
        gpus.every((gpu) => gpu.isFree(share))
          ? 'A worker ends and makes place for it.'
          : `${listText(gpus.map(({ gpu }) => gpuText(gpu)))} ${gpus.length === 1 ? 'is' : 'are'} held for it until the workers that end there are gone and their memory is free.`,
      )
    },

    session(demand, serving, waitMs, loadMs) {
      const said = demand.expectation
      if (said?.serving === serving && waitMs >= said.fromMs && waitMs < said.toMs) return said.waiting
      const { ms: rounded, fromMs, toMs } = roundly(waitMs)
      let told: Waiting | null = null
      const waiting = (): Waiting => {
        const who =
          serving === 1
            ? 'The session worker of its preset is'
            : `All ${serving} session workers of its preset are`
        return (told ??= shared(
          'session',
          `${who} busy or coming up; one is expected to be free for it in about ${durationText(rounded)}, and another one would take about ${durationText(loadMs)} to load.`,
        ))
      }
      demand.expectation = { serving, fromMs, toMs, waiting }
      return waiting
    },

    presetFull({ session, presetId }) {
      return shared(
        'session',
        `Preset ${presetId} has its ${countText(session?.maxWorkers ?? 0, 'session worker')}, and none of them can serve this task.`,
      )
    },

    start({ count, share, presetId }, gpus, isWanted) {
      const what = isWanted ? `A session worker of ${presetId} is kept warm` : 'It is next'
      if (count === 0) return `${what} and needs no GPU.`
      const { memoryMb } = share
      return memoryMb === null
        ? `${what}, and ${listText(gpus.map(({ gpu }) => gpuText(gpu)))} ${count === 1 ? 'is' : 'are'} free.`
        : `${what}: ${listText(gpus.map(freeText))}, and the preset claims ${numberText(memoryMb)}.`
    },
  }

  function freeText({ gpu, availableMb }: GpuRoom): string {
    return gpu.memoryTotalMb === 0
      ? `the memory of ${gpuText(gpu)} is not known`
      : `${gpuText(gpu)} has ${numberText(availableMb)} of ${numberText(gpu.memoryTotalMb)} MB free`
  }
}

function withStop(sentence: string): string {
  return sentence.endsWith('.') ? sentence : `${sentence}.`
}
