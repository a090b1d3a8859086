import { statfs } from 'node:fs/promises'
import type { Engine } from './engine.ts'

const MIB = 1024 * 1024
const LOOK_EVERY_MS = 500
/** So little is as good as nothing: it can be gone, and be there again, between two looks. */
const NOTHING_BYTES = 16 * MIB

/** The disk that holds the engine's data, its containers' logs among them. */
export interface DiskSpace {
  readonly path: string
  readonly freeBytes: number
  readonly totalBytes: number
}

/**
 * Watches the disk for one worker. Where it is full the engine drops what its workers say, and neither tells them nor anybody else.
 */
export interface DiskWatch extends Disposable {
  /** It is full, or has been since `take`. */
  readonly wasFull: boolean
  /** The same, and what was full counts as told from now on; `null`: it was not. */
  take(): string | null
  /** Looks at once. */
  look(): Promise<void>
}

export interface EngineDisk {
  /** `null`: it cannot be seen from here (the engine is on another machine, or in one of its own). Throws where the engine does not answer. */
  space(): Promise<DiskSpace | null>
  /** Begins to look at it twice a second, for as long as anybody watches. */
  watch(): DiskWatch
}

export function createEngineDisk(engine: Engine): EngineDisk {
  let root: string | null = null
  let watchers = 0
  let timer: NodeJS.Timeout | undefined
  let looking: Promise<void> | null = null
  let isFull = false
  let fullAt = Number.NEGATIVE_INFINITY

  async function space(): Promise<DiskSpace | null> {
    if (!engine.isLocal) return null
    root ??= (await engine.info()).dataRoot
    try {
      const { bsize, blocks, bfree } = await statfs(root)
      return { path: root, freeBytes: bfree * bsize, totalBytes: blocks * bsize }
    } catch {
      return null
    }
  }

  function look(): Promise<void> {
    looking ??= space()
      .then(
        (found) => {
          isFull = found !== null && found.freeBytes < NOTHING_BYTES
          if (isFull) fullAt = performance.now()
        },
        // The engine is away: it can be asked for its folder later.
        () => undefined,
      )
      .finally(() => {
        looking = null
      })
    return looking
  }

  return {
    space,
    watch() {
      if (++watchers === 1) {
        timer = setInterval(() => void look(), LOOK_EVERY_MS)
        timer.unref()
      }
      void look()
      let toldAt = performance.now()
      return {
        get wasFull() {
          return isFull || fullAt > toldAt
        },
        take() {
          if (!this.wasFull) return null
          toldAt = performance.now()
          return `The disk that holds the Docker engine's data (${root ?? ''}) was full: what the worker said meanwhile may be missing.`
        },
        look,
        [Symbol.dispose]() {
          if (--watchers === 0) clearInterval(timer)
        },
      }
    },
  }
}
