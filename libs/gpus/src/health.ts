import { isDeepStrictEqual } from 'node:util'
import type { Gpu, GpuId, GpuTelemetry } from '@gpu-service/tasks'
import type { GpuFault, GpuReading, GpuSample } from './sample.ts'

/** Good samples in a row until a LOST GPU is in use again: one that comes and goes stays out. */
const GOOD_SAMPLES = 3
/** Without an answer until telemetry is stale. */
const STALE_AFTER_INTERVALS = 2
/** MIG devices get new ids as cards are divided anew; beyond this, those that are gone are forgotten. */
const MAX_LISTED = 512

const ECC_KEY = 'ecc'

/** What becomes of GPUs as samples come in, real or simulated alike. Time is passed in; monotonic milliseconds beside the wall clock's. */
export interface GpuHealth {
  list(): readonly Gpu[]
  /** Gives the ids of the GPUs of which `list` now tells something else than that their sample is newer. */
  take(sample: GpuSample, at: Instant): readonly GpuId[]
  /** Lets telemetry become stale; gives the ids as `take` does. */
  age(monotonicMs: number): readonly GpuId[]
  /** When `age` has something to do next, in monotonic milliseconds; `null`: nothing before the next answer. */
  nextStaleMs(): number | null
  /** Ends the quarantine of a GPU and, for a card, of its MIG devices; gives the ids as `take` does, or `null` for an unknown GPU. */
  restore(id: GpuId): readonly GpuId[] | null
}

export interface Instant {
  readonly monotonicMs: number
  /** Milliseconds since 1970. */
  readonly wallMs: number
}

interface Known {
  reading: GpuReading
  telemetry: GpuTelemetry
  answeredMs: number
  stale: boolean
  /** Why nothing was heard last time. */
  silence: string | null
  /** Why it is LOST. */
  lost: string | null
  goodSamples: number
  /** Why it is QUARANTINED; each stays until an operator's word, a passing one until it has passed. */
  held: Map<string, GpuFault>
  /** Faults that last and that an operator has overruled. */
  overruled: Set<string>
  /** ECC errors that are no news: those at first sight, or at an operator's word. */
  eccBaseline: number | null
}

export function createGpuHealth(options: { simulated: boolean; sampleIntervalMs: number }): GpuHealth {
  const staleAfterMs = STALE_AFTER_INTERVALS * options.sampleIntervalMs
  const known = new Map<GpuId, Known>()
  let listed: readonly Gpu[] = []

  function relist(): readonly GpuId[] {
    const before = new Map(listed.map((gpu) => [gpu.id, gpu]))
    listed = [...known.values()].sort(byPlace).map((one) => gpuOf(one, options.simulated))
    return listed.filter((gpu) => !isSame(before.get(gpu.id), gpu)).map(({ id }) => id)
  }

  function hear(reading: GpuReading, at: Instant): void {
    const telemetry = { sampledAt: at.wallMs, ...reading.meters }
    const heard = { reading, telemetry, answeredMs: at.monotonicMs, stale: false, silence: null }
    const before = known.get(reading.id)
    if (!before) {
      const fresh = { lost: null, goodSamples: 0, held: new Map(), overruled: new Set<string>() }
      known.set(reading.id, { ...heard, ...fresh, eccBaseline: reading.meters.eccErrors })
    } else {
      Object.assign(before, heard)
    }
    const one = known.get(reading.id)
    if (one) judge(one)
  }

  function judge(one: Known): void {
    const faults = [...one.reading.faults]
    const { eccErrors } = one.reading.meters
    if (eccErrors !== null) {
      // Counted since the driver was loaded: fewer than before means that it was loaded anew.
      one.eccBaseline = Math.min(one.eccBaseline ?? eccErrors, eccErrors)
      if (eccErrors > one.eccBaseline) faults.push(eccFault(one.eccBaseline, eccErrors))
    }
    const present = new Map(faults.map((fault) => [fault.key, fault]))
    for (const key of one.overruled) if (!present.has(key)) one.overruled.delete(key)
    for (const { key, passing } of one.held.values()) if (passing && !present.has(key)) one.held.delete(key)
    for (const fault of faults) if (!one.overruled.has(fault.key)) one.held.set(fault.key, fault)

    if (one.lost === null) return
    if (present.size > one.overruled.size) {
      // It is there again, and not well: a matter for an operator, not for more samples.
      one.lost = null
      return
    }
    one.goodSamples += 1
    if (one.goodSamples >= GOOD_SAMPLES) {
      one.lost = null
      one.held.clear()
    }
  }

  function lose(one: Known, reason: string): void {
    one.lost = reason
    one.goodSamples = 0
  }

  function ageAll(monotonicMs: number): void {
    for (const one of known.values()) {
      if (monotonicMs - one.answeredMs >= staleAfterMs) one.stale = true
    }
  }

  function forgetLost(): void {
    for (const [id, { lost }] of known) {
      if (known.size <= MAX_LISTED) return
      if (lost !== null) known.delete(id)
    }
  }

  return {
    list: () => listed,
    take(sample, at) {
      if (sample.status === 'failed') {
        for (const one of known.values()) {
          one.silence = sample.reason
          one.goodSamples = 0
        }
      } else {
        const heard = new Set(sample.readings.map(({ id }) => id))
        for (const reading of sample.readings) hear(reading, at)
        for (const [id, one] of known) {
          const reason = sample.lost.get(id)
          const silence = sample.silent.get(id)
          if (reason !== undefined) lose(one, reason)
          else if (silence !== undefined) {
            one.silence = silence
            one.goodSamples = 0
          } else if (!heard.has(id)) lose(one, 'The driver lists it no more.')
        }
        forgetLost()
      }
      ageAll(at.monotonicMs)
      return relist()
    },
    age(monotonicMs) {
      ageAll(monotonicMs)
      return relist()
    },
    nextStaleMs() {
      const fresh = [...known.values()].filter(({ stale }) => !stale)
      return fresh.length === 0 ? null : Math.min(...fresh.map((one) => one.answeredMs)) + staleAfterMs
    },
    restore(id) {
      if (!known.has(id)) return null
      for (const one of known.values()) {
        if (one.reading.id !== id && one.reading.parentId !== id) continue
        for (const { key } of one.reading.faults) one.overruled.add(key)
        one.eccBaseline = one.reading.meters.eccErrors
        one.held.clear()
      }
      return relist()
    },
  }
}

function eccFault(before: number, now: number): GpuFault {
  const text = `Its uncorrectable ECC errors rose from ${before} to ${now}.`
  return { key: ECC_KEY, text, passing: false }
}

function gpuOf(one: Known, simulated: boolean): Gpu {
  const { id, index, name, memoryTotalMb, parentId } = one.reading
  const { telemetry, stale, lost, held } = one
  const identity = { id, index, name, memoryTotalMb, simulated, parentId, telemetry, stale }
  if (lost !== null) return { ...identity, health: 'LOST', problem: lost }
  if (held.size > 0) {
    return {
      ...identity,
      health: 'QUARANTINED',
      problem: [...held.values()].map(({ text }) => text).join(' '),
    }
  }
  return { ...identity, health: 'OK', problem: stale ? one.silence : null }
}

function byPlace({ reading: a }: Known, { reading: b }: Known): number {
  return (
    a.index - b.index ||
    compare(a.parentId ?? a.id, b.parentId ?? b.id) ||
    Number(a.parentId !== null) - Number(b.parentId !== null) ||
    a.migIndex - b.migIndex ||
    compare(a.id, b.id)
  )
}

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0
}

/** Whether a listener would learn nothing: a sample that is merely newer is no change. */
function isSame(before: Gpu | undefined, now: Gpu): boolean {
  const timeless = (gpu: Gpu): Gpu => ({
    ...gpu,
    telemetry: gpu.telemetry && { ...gpu.telemetry, sampledAt: 0 },
  })
  return before !== undefined && isDeepStrictEqual(timeless(before), timeless(now))
}
