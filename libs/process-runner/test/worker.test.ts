import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdir, open, readdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import type { GpuId, OutputCursor, WorkerOrder } from '@gpu-service/tasks'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { openRig, openRunner, type Rig } from './rig.ts'

const run = promisify(execFile)

let rig: Rig

beforeEach(async () => {
  rig = await openRig()
})

afterEach(async () => {
  vi.unstubAllEnvs()
  await rig[Symbol.asyncDispose]()
})

describe('what is run', () => {
  const MANIFEST =
    "name: hello\nimage: hello:latest\nlocal:\n  command: ['/bin/sh', 'hello.sh', 'two words']\n"

  it("is the local command of the package whose manifest names the image, in the package's folder", async () => {
    const folder = await writePackage('test/hello', MANIFEST)
    const order = withImage('hello', null)
    expect(await rig.runner.start(order)).toMatchObject({ status: 'started', imageDigest: null })
    expect((await rig.read(order)).stdout.toString()).toBe(`${folder} two words\n`)
  })

  it('is that of a manifest that also says what inputs and outputs look like', async () => {
    const folder = await writePackage(
      'test/hello',
      `${MANIFEST}input: {type: object}\noutput: {oneOf: [{type: string}]}\n`,
    )
    const order = withImage('hello', null)
    await rig.runner.start(order)
    expect((await rig.read(order)).stdout.toString()).toBe(`${folder} two words\n`)
  })

  it("is the preset's own local command before the package's, in the same folder", async () => {
    const folder = await writePackage('test/hello', MANIFEST)
    const order = withImage('hello:latest', ['/bin/pwd'])
    await rig.runner.start(order)
    expect((await rig.read(order)).stdout.toString()).toBe(`${folder}\n`)
  })

  it('is found on the PATH of the worker, and not elsewhere', async () => {
    const found = rig.order('', { command: ['sh', '-c', 'echo found'] })
    await rig.runner.start(found)
    expect((await rig.read(found)).stdout.toString()).toBe('found\n')
    const missing = rig.order('', { command: ['sh', '-c', 'echo found'], env: { PATH: '/nowhere' } })
    expect(await rig.runner.start(missing)).toMatchObject({
      status: 'failed',
      code: 'COMMAND_NOT_FOUND',
      hint: expect.stringContaining('/nowhere') as string,
    })
  })

  it('is nothing where the image has no package, and the failure says what to do', async () => {
    expect(await rig.runner.start(withImage('other:1', null))).toMatchObject({
      status: 'failed',
      code: 'NO_LOCAL_COMMAND',
      hint: expect.stringContaining('image: other:1') as string,
    })
    expect(await rig.runner.list()).toEqual([])
  })

  it('is nothing where the package has no local command', async () => {
    const folder = await writePackage('hello', 'name: hello\nimage: hello:1\n')
    expect(await rig.runner.start(withImage('hello:1', null))).toMatchObject({
      status: 'failed',
      code: 'NO_LOCAL_COMMAND',
      hint: expect.stringContaining(folder) as string,
    })
  })

  it.each([
    ['name: hello\nimage: hello:latest\nlocal:\n  comand: [sh]\n', ':4:3: `comand` is not a key here'],
    ['name: hello\nimage: 7\n', ':2:8: must be a text'],
    ['image: hello:latest\n', ':1:1: needs a `name`'],
    ['name: hello\nimage: hello:latest\nlocal: {command: []}\n', ':3:18: must be a list'],
    ['name: hello\nimage: [\n', ':3:1: '],
    ['', 'must be a map'],
    [`name: ${'x'.repeat(70_000)}\n`, 'larger than 65536 bytes'],
  ])('is not taken from a manifest that is not valid, which the log names: %j', async (manifest, issue) => {
    const folder = await writePackage('hello', manifest)
    expect(await rig.runner.start(withImage('hello', null))).toMatchObject({ code: 'NO_LOCAL_COMMAND' })
    expect(rig.warnings.join()).toContain(join(folder, 'worker.yaml'))
    expect(rig.warnings.join()).toContain(issue)
  })

  async function writePackage(path: string, manifest: string): Promise<string> {
    const folder = join(rig.dataDir, 'packages', path)
    await mkdir(folder, { recursive: true })
    await writeFile(join(folder, 'worker.yaml'), manifest)
    await writeFile(join(folder, 'hello.sh'), 'echo "$PWD $1"\n')
    return folder
  }

  function withImage(image: string, localCommand: readonly string[] | null): WorkerOrder {
    const order = rig.order('')
    return { ...order, spec: { ...order.spec, image, localCommand } }
  }
})

describe('the environment', () => {
  it('shows CUDA the real GPUs that were given, and none otherwise', async () => {
    vi.stubEnv('CUDA_VISIBLE_DEVICES', '0,1,2,3')
    const real = { id: 'GPU-11111111-2222-3333-4444-555555555555' as GpuId, index: 2, simulated: false }
    const made = { id: 'GPU-99999999-2222-3333-4444-555555555555' as GpuId, index: 3, simulated: true }
    const script = 'echo "[$CUDA_VISIBLE_DEVICES] [$GPU_DEVICE]"'
    const given = await rig.start(script, { gpus: [real, made] })
    const none = await rig.start(script)
    expect((await rig.read(given.order)).stdout.toString()).toBe(`[${real.id}] [2,3]\n`)
    expect((await rig.read(none.order)).stdout.toString()).toBe('[] []\n')
  })

  it('passes on the language and the search path of the service', async () => {
    vi.stubEnv('LC_MESSAGES', 'de_DE.UTF-8')
    vi.stubEnv('TZ', 'Asia/Tokyo')
    const { order } = await rig.start('echo "$LC_MESSAGES $TZ $PATH"')
    expect((await rig.read(order)).stdout.toString()).toBe(`de_DE.UTF-8 Asia/Tokyo ${process.env['PATH']}\n`)
  })

  it('is kept where its names are those that a launcher might use itself', async () => {
    const env = { code: 'a', folder: 'b', pid: 'c', IFS_: 'd', stopped: 'e' }
    const { order } = await rig.start('echo "$code $folder $pid $IFS_ $stopped"', { env })
    expect((await rig.read(order)).stdout.toString()).toBe('a b c d e\n')
  })
})

describe('processes of a worker', () => {
  it('that left its group and its session are ended with it', async () => {
    const { order, files } = await rig.start(
      'mkfifo "$OUTPUT_DIR/held"; exec 3<>"$OUTPUT_DIR/held"; setsid sh -c \'trap "" TERM HUP; sleep 60; :\' & echo up; sleep 60',
    )
    await rig.read(order, { until: ({ stdout }) => stdout === 'up\n' })
    await using held = await open(join(files, 'held'), 'r')
    await rig.runner.stop(order.name, { graceMs: 2_000 })
    expect((await held.readFile()).length).toBe(0)
  })

  it('are named also where they left its session, or its environment', async () => {
    const { order } = await rig.start('setsid sleep 6464 & env -i /bin/sleep 6565 & sleep 60')
    await vi.waitFor(async () => {
      const pids = await rig.runner.processes(order.name)
      const { stdout } = await run('ps', ['-o', 'args=', '-p', pids.join(',')])
      expect(stdout.split('\n')).toEqual(expect.arrayContaining(['sleep 6464', '/bin/sleep 6565']))
    }, 10_000)
  })

  it('leave no zombie', async () => {
    const { order, pid } = await rig.start('sleep 0.01 & exit 0')
    await rig.read(order)
    await vi.waitFor(() => {
      if (existsSync(`/proc/${pid}`)) throw new Error('still there')
    })
  })

  it('end at once where they are stopped the moment they are started', { timeout: 30_000 }, async () => {
    for (let round = 0; round < 10; round += 1) {
      const { order } = await rig.start('sleep 60')
      const askedAt = performance.now()
      await rig.runner.stop(order.name, { graceMs: 20_000 })
      expect(performance.now() - askedAt).toBeLessThan(5_000)
      expect(await rig.runner.inspect(order.name)).toMatchObject({ phase: 'exited', exit: { exitCode: 143 } })
    }
  })

  it('have a log that holds nothing but what they wrote', async () => {
    const { order } = await rig.start('echo out; echo err >&2; kill -SEGV $$; sleep 60')
    const { stdout, stderr, end } = await rig.read(order)
    expect([stdout.toString(), stderr.toString()]).toEqual(['out\n', 'err\n'])
    expect(end).toMatchObject({ exitCode: 139 })
  })
})

describe('reading', () => {
  it(
    'of 1,000,000 lines as they come is complete, in items of at most 256 KiB',
    { timeout: 60_000 },
    async () => {
      const { order } = await rig.start('seq 1 1000000; seq 1 1000000 >&2')
      const { stdout, stderr, marks, end } = await rig.read(order)
      const expected = Buffer.from(Array.from({ length: 1_000_000 }, (_, index) => `${index + 1}\n`).join(''))
      expect(stdout.equals(expected) && stderr.equals(expected)).toBe(true)
      expect(end).toMatchObject({ exitCode: 0 })
      expect(marks.length).toBeGreaterThan((2 * expected.length) / (256 * 1024))
    },
  )

  it('leaves no watch, timer or file open behind it', async () => {
    const { order } = await rig.start('echo up; sleep 60')
    await rig.read(order, { until: () => true })
    const before = await openHandles()
    for (let round = 0; round < 20; round += 1) {
      const stop = new AbortController()
      await rig.read(order, { until: () => true, signal: stop.signal })
      const waiting = rig.read(order, { signal: stop.signal })
      stop.abort()
      await waiting
    }
    const after = await openHandles()
    expect(after.files).toBeLessThanOrEqual(before.files)
    expect(after.watches).toBe(before.watches)
    expect(after.timers).toBeLessThanOrEqual(before.timers)
  })

  it('ends where the runner is disposed of', async () => {
    const { order } = await rig.start('echo up; sleep 60')
    const other = openRunner(rig.dataDir)
    const after: OutputCursor = { stdout: '', stderr: '' }
    const items = other
      .output(order.name, { after, signal: new AbortController().signal })
      [Symbol.asyncIterator]()
    await items.next()
    const waiting = items.next()
    await other[Symbol.asyncDispose]()
    expect(await waiting).toMatchObject({ done: true })
  })

  it('follows a worker that is started only later', async () => {
    const order = rig.order('echo up')
    await mkdir(join(rig.dataDir, 'workers', order.name), { recursive: true })
    const reading = rig.read(order)
    await rig.runner.start(order)
    expect((await reading).stdout.toString()).toBe('up\n')
  })
})

describe('the stdin of a session worker', () => {
  it('does not block the service where the worker does not read it', async () => {
    const { order } = await rig.start('sleep 60', { mode: 'SESSION' })
    const inputs = await Promise.all(Array.from({ length: 6 }, () => rig.runner.openInput(order.name)))
    const large = { runId: 'task.1', attempt: 1, input: 'x'.repeat(200_000), files: [], previous: [] }
    const writes = Promise.allSettled(inputs.map((input) => input.run(large)))
    // All of these go through the thread pool, which stuck writes would have used up.
    expect(await readdir(rig.dataDir)).toContain('workers')
    await rig.runner.stop(order.name, { graceMs: 1_000 })
    for (const { status } of await writes) expect(status).toBe('rejected')
    for (const input of inputs) input.detach()
  })

  it('is refused for a one-off worker', async () => {
    const { order } = await rig.start('sleep 60')
    await expect(rig.runner.openInput(order.name)).rejects.toMatchObject({ code: 'NOT_FOUND' })
  })
})

describe('names', () => {
  it('that would lead out of the data folder are refused', async () => {
    const order = rig.order('')
    const name = '../../etc' as typeof order.name
    await expect(rig.runner.remove(name)).rejects.toThrow(RangeError)
    expect(() => rig.runner.outputFolder(order.name, '..')).toThrow(RangeError)
  })
})

async function openHandles(): Promise<{ files: number; watches: number; timers: number }> {
  const files = await readdir('/proc/self/fd')
  const active = process.getActiveResourcesInfo()
  return {
    files: files.length,
    watches: active.filter((kind) => kind === 'FSEvent').length,
    timers: active.filter((kind) => kind === 'Timeout').length,
  }
}
