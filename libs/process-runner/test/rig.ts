import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type Logger, silentLogger, type WorkerOrder, type WorkerRunner } from '@gpu-service/tasks'
import {
  type ReadOptions,
  type ReadOutput,
  readOutput,
  type ScriptOptions,
  scriptOrder,
} from '@gpu-service/tasks/testing'
import { createProcessRunner, createWorkerPackages } from '../src/index.ts'

export const INSTALLATION = 'abcd1234'

export function openRunner(
  dataDir: string,
  logger: Logger = silentLogger,
  installation = INSTALLATION,
): WorkerRunner {
  return createProcessRunner({
    installation,
    dataDir,
    modelsDir: '/srv/models',
    packages: createWorkerPackages({ workersDir: join(dataDir, 'packages'), logger }),
    logger,
  })
}

/** One data folder with a runner over it. Disposing removes every worker and the folder. */
export interface Rig extends AsyncDisposable {
  readonly dataDir: string
  readonly runner: WorkerRunner
  /** What was logged, as text. */
  readonly warnings: readonly string[]
  order(script: string, more?: Partial<ScriptOptions>): WorkerOrder
  start(script: string, more?: Partial<ScriptOptions>): Promise<Running>
  read(order: WorkerOrder, options?: Partial<ReadOptions>): Promise<ReadOutput>
}

/** A worker of the rig. */
export interface Running {
  readonly order: WorkerOrder
  /** Its launcher. */
  readonly pid: number
  /** The worker's own folder. */
  readonly folder: string
  /** The folder of its run. */
  readonly files: string
}

export async function openRig(): Promise<Rig> {
  const dataDir = await mkdtemp(join(tmpdir(), 'process-runner-'))
  const warnings: string[] = []
  const runner = openRunner(dataDir, {
    ...silentLogger,
    warn: (fields, message) => warnings.push(`${message} ${JSON.stringify(fields)}`),
  })
  const order: Rig['order'] = (script, more) =>
    scriptOrder({ installation: INSTALLATION, image: 'script:test', script, ...more })
  return {
    dataDir,
    runner,
    warnings,
    order,
    async start(script, more) {
      const placed = order(script, more)
      const started = await runner.start(placed)
      if (started.status === 'failed') throw new Error(started.message)
      return {
        order: placed,
        pid: Number(started.containerId),
        folder: join(dataDir, 'workers', placed.name),
        files: runner.outputFolder(placed.name, placed.run?.runId ?? 'none').host,
      }
    },
    read: (placed, options) =>
      readOutput(runner, placed.name, { signal: AbortSignal.timeout(30_000), ...options }),
    async [Symbol.asyncDispose]() {
      for (const { name } of await runner.list()) await runner.remove(name)
      await rm(dataDir, { recursive: true })
    },
  }
}
