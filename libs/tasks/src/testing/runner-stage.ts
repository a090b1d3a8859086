import { open } from 'node:fs/promises'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, vi } from 'vitest'
import type { WorkerName } from '../ids.ts'
import type { WorkerOrder, WorkerRunner } from '../runner.ts'
import {
  type ReadOptions,
  type ReadOutput,
  readOutput,
  type ScriptOptions,
  scriptOrder,
} from './worker-script.ts'

/** One installation of a runner, for one test. */
export interface RunnerRig extends AsyncDisposable {
  readonly installation: string
  readonly runner: WorkerRunner
  /** Another runner of the same installation, as there is after a restart. It ends with the rig. */
  reopen(): Promise<WorkerRunner>
  /** A runner of another installation beside it. It ends with the rig. */
  stranger(): Promise<WorkerRunner>
}

export interface RunnerHarness {
  /** An image with a `/bin/sh` and the usual small tools. Runners without images never look at it. */
  readonly image: string
  /** The models folder as workers reach it. */
  readonly modelsPath: string
  open(): Promise<RunnerRig>
}

/** What the sentences of the contract are told with; its parts belong to the test that runs. */
export interface RunnerStage {
  readonly rig: RunnerRig
  readonly runner: WorkerRunner
  /** Puts another runner of the same installation in the place of `runner`. */
  restart(): Promise<void>
  /** Aborted after the test. */
  signal(): AbortSignal
  readonly order: (script: string, more?: Partial<ScriptOptions>) => WorkerOrder
  readonly start: (script: string, more?: Partial<ScriptOptions>) => Promise<WorkerOrder>
  readonly read: (name: WorkerName, options?: Partial<ReadOptions>) => Promise<ReadOutput>
  /** Starts a worker, reads it to its end and gives what it said. */
  readonly say: (script: string, more?: Partial<ScriptOptions>) => Promise<ReadOutput>
  /** The folder of a one-off worker's files, as the test reaches it. */
  readonly files: (placed: WorkerOrder) => string
}

/** Opens a rig before each test of the suite that is being described, and afterwards fails the test that cannot be cleaned up after. */
export function setStage(harness: RunnerHarness): RunnerStage {
  let rig: RunnerRig
  let runner: WorkerRunner
  let ending: AbortController

  beforeEach(async () => {
    rig = await harness.open()
    runner = rig.runner
    ending = new AbortController()
  })

  afterEach(async () => {
    ending.abort()
    vi.unstubAllEnvs()
    const cleaner = await rig.reopen()
    for (const { name } of await cleaner.list()) await cleaner.remove(name)
    const left = await cleaner.list()
    await rig[Symbol.asyncDispose]()
    expect(left).toEqual([])
  })

  const stage: RunnerStage = {
    get rig() {
      return rig
    },
    get runner() {
      return runner
    },
    async restart() {
      await runner[Symbol.asyncDispose]()
      runner = await rig.reopen()
    },
    signal: () => ending.signal,
    order: (script, more) =>
      scriptOrder({ installation: rig.installation, image: harness.image, script, ...more }),
    async start(script, more) {
      const placed = stage.order(script, more)
      expect(await runner.start(placed)).toMatchObject({ status: 'started' })
      return placed
    },
    read: (name, options) => readOutput(runner, name, { signal: ending.signal, ...options }),
    async say(script, more) {
      const { name } = await stage.start(script, more)
      return stage.read(name)
    },
    files({ name, run }) {
      if (!run) throw new Error('a session worker has no folder of its own')
      return runner.outputFolder(name, run.runId).host
    },
  }
  return stage
}

/** Holds a FIFO of the output folder open for as long as the script or a child of it lives. */
export const HELD_FIFO = 'mkfifo "$OUTPUT_DIR/held"; exec 3<>"$OUTPUT_DIR/held";'

/** Call what it gives to wait until nothing of the worker holds its FIFO any more. */
export async function holders(folder: string): Promise<() => Promise<void>> {
  const fifo = await open(join(folder, 'held'), 'r')
  return async () => {
    await fifo.readFile()
    await fifo.close()
  }
}

export function idOf(result: Awaited<ReturnType<WorkerRunner['start']>>): string {
  if (result.status === 'failed') throw new Error(`the worker did not start: ${result.message}`)
  return result.containerId
}
