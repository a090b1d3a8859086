import type { PlannedGpu } from './plan-input.ts'

/** `24,300` */
export function numberText(value: number): string {
  const whole = Math.round(value)
  if (whole < 1_000 || whole === Infinity) return String(whole)
  return `${numberText(Math.floor(whole / 1_000))},${String(whole % 1_000).padStart(3, '0')}`
}

/** `GPU 0 (NVIDIA A100)` */
export function gpuText({ index, name }: Pick<PlannedGpu, 'index' | 'name'>): string {
  return `GPU ${index} (${name})`
}

export function listText(items: readonly string[]): string {
  return items.length < 2 ? items.join('') : `${items.slice(0, -1).join(', ')} and ${items.at(-1) ?? ''}`
}

/** `1 GPU`, `2 GPUs` */
export function countText(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? '' : 's'}`
}

/** To two digits: `850 ms`, `8.2 s`, `4 min`. */
export function durationText(ms: number): string {
  if (ms < 995) return `${roughly(ms)} ms`
  if (ms < 119_500) return `${roughly(ms / 1_000)} s`
  if (ms < 7_170_000) return `${roughly(ms / 60_000)} min`
  return `${roughly(ms / 3_600_000)} h`
}

/** To two significant digits. */
export function roughly(value: number): number {
  return Number(value.toPrecision(2))
}

/** Milliseconds to about two digits, and from when to when those are the same. */
export function roundly(ms: number): { readonly ms: number; readonly fromMs: number; readonly toMs: number } {
  const power = Math.max(1, Math.floor(Math.log10(Math.max(1, ms))))
  const step = 10 ** (power - 1)
  const rounded = Math.round(ms / step) * step
  return {
    ms: rounded,
    fromMs: Math.max(power === 1 ? 0 : 10 ** power, rounded - step / 2),
    toMs: Math.min(10 ** (power + 1), rounded + step / 2),
  }
}
