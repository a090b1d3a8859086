import type { PresetSource, TestService } from '../test/e2e/service.ts'

/** What is measured of a fresh service. */
export interface Bench {
  /** By kind, as `TestService` takes them. */
  readonly presets: Readonly<Record<string, PresetSource>>
  readonly run: (service: TestService, report: (row: Row) => void) => Promise<void>
}

/** One line of the benchmark's table. */
export interface Row {
  readonly name: string
  readonly value: number
  readonly unit: string
  /** To the limit measured in the same run; `null` where there is none. */
  readonly ratio: number | null
  /** What the limit is and what else was seen. */
  readonly note: string
  /** What is asked of it, where something is. */
  readonly goal?: { readonly text: string; readonly met: boolean }
}

/** The value below which the given part of the samples lies. */
export function percentile(samples: readonly number[], part: number): number {
  const sorted = [...samples].sort((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * part))] ?? Number.NaN
}

export function median(samples: readonly number[]): number {
  return percentile(samples, 0.5)
}
