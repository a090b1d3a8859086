import type { Clock } from '@gpu-service/tasks'

/** setTimeout fires at once for anything longer. */
const LONGEST_TIMER_MS = 2 ** 31 - 1

/** The machine's own clock. */
export const systemClock: Clock = {
  now: () => Date.now(),
  monotonic: () => performance.now(),
  after(ms, callback) {
    let timer: NodeJS.Timeout
    const arm = (leftMs: number): void => {
      const waitMs = Math.min(leftMs, LONGEST_TIMER_MS)
      timer = setTimeout(() => {
        if (leftMs > waitMs) arm(leftMs - waitMs)
        else callback()
      }, waitMs)
      timer.unref()
    }
    arm(ms)
    return {
      [Symbol.dispose]: () => {
        clearTimeout(timer)
      },
    }
  },
}
