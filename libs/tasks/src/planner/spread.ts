import type { Spread } from './plan-input.ts'

/** How far off an expected moment may be, in milliseconds: nine of ten times not earlier, and not later, than this. */
export interface Doubt {
  readonly down: number
  readonly up: number
  /** Beside this, because what was measured is not quite what is usual: to both sides, and the same for each that is alike. */
  readonly drift: number
}

export const CERTAIN: Doubt = { down: 0, up: 0, drift: 0 }

/** A mean that is told from the spread of some twenty figures is off by so much of that. */
const DRIFT = 0.3

/** What has been measured once or twice spreads more than it has shown. */
const LEAST_SPREAD = 0.05
const LOW_SHARE = 0.1
const MIDDLE_SHARE = 0.5
const HIGH_SHARE = 0.9
/** Of those over the middle one in five is over the high end, and so on behind it. */
const TAIL = Math.log((1 - MIDDLE_SHARE) / (1 - HIGH_SHARE))

export function widened({ low, middle, high }: Spread): Spread {
  return {
    low: Math.min(low, middle * (1 - LEAST_SPREAD)),
    middle,
    high: Math.max(high, middle * (1 + LEAST_SPREAD)),
  }
}

/** The mean of what spreads like this (Swanson's rule): many in a row take so long each, however much longer than the middle a few take. */
export function meanOf({ low, middle, high }: Spread): number {
  return 0.3 * low + 0.4 * middle + 0.3 * high
}

export function doubtAround(at: number, { low, high }: Spread): Doubt {
  const [down, up] = [Math.max(0, at - low), Math.max(0, high - at)]
  return { down, up, drift: (DRIFT * (down + up)) / 2 }
}

/** Of the sum: chance evens out in part, drift does not. */
export function both(a: Doubt, b: Doubt): Doubt {
  return { down: Math.hypot(a.down, b.down), up: Math.hypot(a.up, b.up), drift: a.drift + b.drift }
}

/** Of the first of so many that are alike: it is sooner rather than later. */
export function ofFirst({ down, up, drift }: Doubt, count: number): Doubt {
  const alike = Math.max(1, count)
  return { down: down / Math.cbrt(alike), up: up / Math.sqrt(alike), drift }
}

/** Of so many times the sum. */
export function times({ down, up, drift }: Doubt, count: number): Doubt {
  const factor = Math.sqrt(count)
  return { down: down * factor, up: up * factor, drift: drift * count }
}

/** How long what has lasted for `elapsedMs` lasts in all: of those that lasted as long, the given share (0 to 1) lasted no longer. */
export function lastingMs(spread: Spread, elapsedMs: number, share: number): number {
  const passed = shareBelow(spread, elapsedMs)
  return Math.max(elapsedMs, quantile(spread, passed + (1 - passed) * share))
}

function quantile({ low, middle, high }: Spread, share: number): number {
  if (share <= MIDDLE_SHARE) {
    return Math.max(0, low + ((middle - low) * (share - LOW_SHARE)) / (MIDDLE_SHARE - LOW_SHARE))
  }
  return share <= HIGH_SHARE
    ? middle + ((high - middle) * (share - MIDDLE_SHARE)) / (HIGH_SHARE - MIDDLE_SHARE)
    : high + ((high - middle) * Math.log((1 - HIGH_SHARE) / Math.max(1e-9, 1 - share))) / TAIL
}

/** How many of all are below the value; the inverse of `quantile`. */
function shareBelow({ low, middle, high }: Spread, value: number): number {
  if (value <= middle) {
    const share = LOW_SHARE + ((value - low) * (MIDDLE_SHARE - LOW_SHARE)) / (middle - low)
    return Math.max(0, share)
  }
  return value <= high
    ? MIDDLE_SHARE + ((value - middle) * (HIGH_SHARE - MIDDLE_SHARE)) / (high - middle)
    : 1 - (1 - HIGH_SHARE) * Math.exp((-TAIL * (value - high)) / (high - middle))
}
