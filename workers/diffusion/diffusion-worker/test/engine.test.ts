import { spawnSync } from 'node:child_process'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type Engine, openEngine } from '../src/engine.ts'
import type { Job } from '../src/messages.ts'
import { DIST, FOLDER, MODEL } from './build.ts'

const BARE = join(DIST, 'app/node_modules/bare-runtime-linux-x64/bin/bare')
const PAINTER = join(DIST, 'app/painter.cjs')
const JOB: Job = {
  prompt: 'a red fox',
  negative_prompt: '',
  width: 64,
  height: 64,
  steps: 2,
  cfg_scale: 7,
  sampling_method: 'euler_a',
  seed: 1,
  init: null,
}
const never = new AbortController().signal
const nothing = (): void => undefined

describe('the engine', () => {
  let engine: Engine
  const shares: number[] = []
  beforeAll(async () => {
    const options = { modelFile: MODEL, onGpu: false, threads: 1, cancelMs: 30_000 }
    engine = await openEngine({ program: [BARE, PAINTER], ...options }, (share) => shares.push(share))
  })

  test('tells how far loading has come', () => {
    expect(shares.length).toBeGreaterThan(0)
    expect(shares).toEqual(shares.toSorted((a, b) => a - b))
    expect(shares.at(-1)).toBe(1)
  })

  test('stops within one step of a cancel, and then makes the next image as if nothing had been', async () => {
    const steps: number[] = []
    const paint = (): Promise<Buffer> => engine.paint(JOB, never, nothing)
    const before = await paint()
    const cancelling = new AbortController()
    // Steps of some tenths of a second, for which this test would wait a minute.
    const large = { ...JOB, width: 192, height: 192, steps: 150 }
    const cancelled = engine.paint(large, cancelling.signal, (step) => {
      steps.push(step)
      if (step === 2) cancelling.abort(new Error('enough'))
    })
    await expect(cancelled).rejects.toThrow('enough')
    expect(steps.slice(0, 3)).toEqual([0, 1, 2])
    expect(steps.length).toBeLessThanOrEqual(4)
    expect(await paint()).toEqual(before)
  })

  test.each([
    ['before it has begun', -1],
    ['while it reads the prompt', 0],
    ['after its last step', 2],
  ])('heeds a cancel that comes %s', async (_when, atStep) => {
    const steps: number[] = []
    const cancelling = new AbortController()
    const job = atStep < 2 ? { ...JOB, width: 128, height: 128, steps: 150 } : JOB
    const cancelled = engine.paint(job, cancelling.signal, (step) => {
      steps.push(step)
      if (step === atStep) cancelling.abort(new Error('enough'))
    })
    if (atStep === -1) cancelling.abort(new Error('enough'))
    await expect(cancelled).rejects.toThrow('enough')
    expect(steps.length).toBeLessThanOrEqual(3)
    expect(await engine.paint(JOB, never, nothing)).toBeInstanceOf(Buffer)
  })
})

/** Programs in the place of the engine's, that do what it is hoped never to do. */
describe('an engine that', () => {
  let folder: string
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'diffusion-engine-'))
  })
  afterAll(() => rm(folder, { recursive: true }))

  /** What a process comes to whose engine, once loaded, does `onPaint`. */
  async function fate(onPaint: string): Promise<{ status: number | null; said: string[]; stderr: string }> {
    const engine = join(folder, 'engine.mjs')
    await writeFile(
      engine,
      `import { Socket } from 'node:net'
       import { createInterface } from 'node:readline'
       const pipe = new Socket({ fd: 3 })
       const say = (message) => pipe.write(JSON.stringify(message) + '\\n')
       pipe.on('end', () => process.exit(0))
       createInterface({ input: pipe }).on('line', (line) => {
         const { command } = JSON.parse(line)
         if (command === 'load') say({ said: 'loaded' })
         if (command === 'paint') { ${onPaint} }
       })`,
    )
    const worker = join(folder, 'worker.mts')
    await writeFile(
      worker,
      `import { openEngine } from ${JSON.stringify(join(FOLDER, 'src/engine.ts'))}
       const options = { modelFile: '', onGpu: false, threads: 1, cancelMs: 1000 }
       const engine = await openEngine({ program: [process.execPath, ${JSON.stringify(engine)}], ...options }, () => {})
       await engine.paint({}, new AbortController().signal, () => {}).catch((error) => console.log(error.code + ': ' + error.message))
       setInterval(() => {}, 1000)`,
    )
    const { status, stdout, stderr } = spawnSync(
      process.execPath,
      ['--import', 'tsx', '--conditions', '@gpu-service/source', worker],
      { cwd: FOLDER, encoding: 'utf8', timeout: 50_000 },
    )
    return { status, said: stdout.trimEnd().split('\n'), stderr }
  }

  test('dies ends the worker, once the task has heard what it said last', async () => {
    const log = { said: 'log', isError: true, text: 'no room for 7 GB' }
    const { status, said, stderr } = await fate(
      `say(${JSON.stringify(log)}); pipe.end(() => process.kill(process.pid, 'SIGABRT'))`,
    )
    expect(said).toEqual(['ENGINE_ENDED: the engine has ended by itself (SIGABRT); no room for 7 GB'])
    expect(stderr).toContain('the engine has ended by itself')
    expect(status).not.toBe(0)
  })

  test('is killed from outside wanted too much memory', async () => {
    const { status, said } = await fate(`process.kill(process.pid, 'SIGKILL')`)
    expect(said).toEqual(['OUT_OF_MEMORY: the engine was killed, for want of memory as it seems'])
    expect(status).not.toBe(0)
  })
})
