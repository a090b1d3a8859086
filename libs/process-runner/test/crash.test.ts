import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { open, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout } from 'node:timers/promises'
import { OUTPUT_START, type WorkerOrder } from '@gpu-service/tasks'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { openRig, type Rig } from './rig.ts'

const UNTIL_GO = 'while [ ! -e "$OUTPUT_DIR/go" ]; do sleep 0.02; done;'

let rig: Rig

beforeEach(async () => {
  rig = await openRig()
})

afterEach(async () => {
  await rig[Symbol.asyncDispose]()
})

describe('a service that is killed', () => {
  it(
    'at any moment of a start leaves one worker, which the next start adopts',
    { timeout: 120_000 },
    async () => {
      for (let afterMs = 0; afterMs <= 24; afterMs += 3) {
        const order = rig.order('echo once >> "$OUTPUT_DIR/starts"; echo up; exit 3')
        const host = await hostFor(order)
        host.stdin.write('go\n')
        await setTimeout(afterMs)
        host.kill('SIGKILL')
        await once(host, 'exit')
        expect(await rig.runner.start(order)).toMatchObject({ status: 'started' })
        const { stdout, end } = await rig.read(order)
        expect(stdout.toString()).toBe('up\n')
        expect(end).toMatchObject({ exitCode: 3 })
        const files = rig.runner.outputFolder(order.name, order.run?.runId ?? '').host
        expect(await readFile(join(files, 'starts'), 'utf8')).toBe('once\n')
      }
    },
  )

  it('before it launched the worker leaves one that is created, and can be started, stopped and removed', async () => {
    const order = rig.order('echo up')
    const folder = join(rig.dataDir, 'workers', order.name)
    await rig.runner.start(order)
    await rig.read(order)
    await rm(join(folder, 'identity'))
    await rm(join(folder, 'exit'))
    expect(await rig.runner.inspect(order.name)).toEqual({ phase: 'created' })
    await rig.runner.stop(order.name, { graceMs: 1_000 })
    expect(await rig.runner.start(order)).toMatchObject({ status: 'started' })
    expect((await rig.read(order)).stdout.toString()).toBe('up\nup\n')
  })

  it('while its worker ends finds the exit code and the last lines afterwards', async () => {
    const order = rig.order(`echo up; ${UNTIL_GO} echo last; exit 9`)
    const host = await hostFor(order)
    host.stdin.write('go\n')
    await once(host.stdout, 'data')
    host.kill('SIGKILL')
    await once(host, 'exit')
    await writeFile(join(rig.runner.outputFolder(order.name, order.run?.runId ?? '').host, 'go'), '')
    const { stdout, end } = await rig.read(order)
    expect(stdout.toString()).toBe('up\nlast\n')
    expect(end).toMatchObject({ exitCode: 9 })
  })

  it('in the middle of a removal has it finished by the next list', async () => {
    const { order, folder, pid } = await rig.start('trap "" TERM; echo up; while :; do sleep 0.05; done')
    await rename(folder, join(rig.dataDir, 'workers', `.removed-${order.name}.1`))
    expect(await rig.runner.inspect(order.name)).toEqual({ phase: 'unknown' })
    expect(await rig.runner.list()).toEqual([])
    expect(await readdir(join(rig.dataDir, 'workers'))).toEqual([])
    await gone(pid)
  })
})

describe('a worker whose launcher was killed by hand', () => {
  it('runs on, is read to its end, and ends without an exit code', async () => {
    const { order, pid, files } = await rig.start(`echo up; ${UNTIL_GO} echo last`)
    await rig.read(order, { until: ({ stdout }) => stdout === 'up\n' })
    process.kill(pid, 'SIGKILL')
    await gone(pid)
    expect(await rig.runner.inspect(order.name)).toMatchObject({ phase: 'running' })
    await writeFile(join(files, 'go'), '')
    const { stdout, end } = await rig.read(order)
    expect(stdout.toString()).toBe('up\nlast\n')
    expect(end).toMatchObject({ exitCode: null })
  })

  it('ends for a waiting reader, though no file tells of it, where the whole group was killed', async () => {
    const { order, pid } = await rig.start('echo up; sleep 60')
    await rig.read(order, { until: ({ stdout }) => stdout === 'up\n' })
    const waiting = rig.read(order)
    process.kill(-pid, 'SIGKILL')
    expect((await waiting).end).toMatchObject({ exitCode: null })
  })

  it('is ended by a stop all the same', async () => {
    const { order, pid } = await rig.start('echo up; sleep 60')
    await rig.read(order, { until: ({ stdout }) => stdout === 'up\n' })
    process.kill(pid, 'SIGKILL')
    await rig.runner.stop(order.name, { graceMs: 1_000 })
    expect(await rig.runner.inspect(order.name)).toMatchObject({ phase: 'exited', exit: { exitCode: null } })
  })
})

describe('a process number that another process was given', () => {
  it('is not taken for the worker, and the other process is left alone', async () => {
    const { order, folder } = await rig.start('echo up; sleep 0.1')
    await rig.read(order)
    // Processes are told apart by the hundredth of a second in which they began.
    await using stranger = startStranger()
    const identity = await readFile(join(folder, 'identity'), 'utf8')
    await writeFile(join(folder, 'identity'), identity.replace(/^\d+/, String(stranger.pid)))
    await rm(join(folder, 'exit'))

    expect(await rig.runner.inspect(order.name)).toMatchObject({ phase: 'exited', exit: { exitCode: null } })
    await rig.runner.stop(order.name, { graceMs: 100 })
    await rig.runner.remove(order.name)
    expect(stranger.isRunning()).toBe(true)
  })
})

describe('a restart of the host', () => {
  it('makes a worker lost after all that it had said', async () => {
    const { order, folder } = await rig.start('echo up; sleep 60')
    const first = await rig.read(order, { until: ({ stdout }) => stdout === 'up\n' })
    await writeFile(join(folder, 'launch.json'), '{"version":1,"bootId":"another"}\n')
    expect(await rig.runner.inspect(order.name)).toEqual({ phase: 'unknown' })
    expect(await rig.runner.list()).toEqual([{ name: order.name, state: { phase: 'unknown' } }])
    const { stdout, end } = await rig.read(order)
    expect({ stdout: stdout.toString(), end }).toEqual({ stdout: 'up\n', end: 'lost' })
    expect(await rig.read(order, { after: first.cursor })).toMatchObject({ marks: [], end: 'lost' })
  })

  it('keeps the exit of a worker that had ended before', async () => {
    const { order, folder } = await rig.start('exit 4')
    await rig.read(order)
    await writeFile(join(folder, 'launch.json'), '{"version":1,"bootId":"another"}\n')
    expect((await rig.read(order)).end).toMatchObject({ exitCode: 4 })
  })
})

describe('damaged files', () => {
  it.each(['launch.json', 'identity'])(
    'in the place of %s make the worker lost, with a line in the log',
    async (file) => {
      const { order, folder, pid } = await rig.start('echo up; sleep 60')
      await rig.read(order, { until: ({ stdout }) => stdout === 'up\n' })
      await writeFile(join(folder, file), '\0garbage')
      expect(await rig.runner.inspect(order.name)).toEqual({ phase: 'unknown' })
      expect(await rig.read(order)).toMatchObject({ end: 'lost' })
      expect(rig.warnings.join()).toContain(join(folder, file))
      await rig.runner.remove(order.name)
      await gone(pid)
      expect(await rig.runner.list()).toEqual([])
    },
  )

  it('in the place of the exit code leave it untold', async () => {
    const { order, folder } = await rig.start('exit 4')
    await rig.read(order)
    await writeFile(join(folder, 'exit'), '')
    expect((await rig.read(order)).end).toMatchObject({ exitCode: null })
  })

  it('refuse a start under the same name, and leave nothing behind', async () => {
    const { order, folder } = await rig.start('exit 4')
    await rig.read(order)
    await writeFile(join(folder, 'launch.json'), '')
    expect(await rig.runner.start(order)).toMatchObject({ status: 'failed', code: 'ENGINE_REFUSED' })
    expect(existsSync(folder)).toBe(false)
  })

  it('that end before the cursor give a gap, and reading goes on behind it', async () => {
    const { order, folder, files } = await rig.start(`seq 1 100; ${UNTIL_GO} echo more`)
    const first = await rig.read(order, { until: ({ stdout }) => stdout.endsWith('\n100\n') })
    await using log = await open(join(folder, 'stdout.log'), 'r+')
    await log.truncate(10)
    const said: string[] = []
    const reading = { after: first.cursor, signal: AbortSignal.timeout(10_000) }
    for await (const item of rig.runner.output(order.name, reading)) {
      said.push(item.kind === 'data' ? Buffer.from(item.bytes).toString() : item.kind)
      if (item.kind === 'gap') await writeFile(join(files, 'go'), '')
    }
    expect(said).toEqual(['gap', 'more\n', 'end'])
  })
})

describe('a cursor', () => {
  it('that this runner did not make is refused', async () => {
    const { order } = await rig.start('echo up')
    const reading = rig.read(order, { after: { ...OUTPUT_START, stdout: '2026-01-01T00:00:00Z 1' } })
    await expect(reading).rejects.toThrow(RangeError)
  })
})

/** A service in another process, about to start the worker. */
async function hostFor(order: WorkerOrder) {
  const program = join(import.meta.dirname, 'starting-host.ts')
  const host = spawn(process.execPath, ['--import', 'tsx', program, rig.dataDir, JSON.stringify(order)], {
    stdio: ['pipe', 'pipe', 'inherit'],
  })
  await once(host.stdout, 'data')
  return host
}

function startStranger() {
  const child = spawn('/bin/sleep', ['60'], { detached: true, stdio: 'ignore' })
  return {
    pid: child.pid ?? 0,
    isRunning: () => child.exitCode === null && child.signalCode === null && !child.killed,
    async [Symbol.asyncDispose]() {
      child.kill('SIGKILL')
      if (child.signalCode === null) await once(child, 'exit')
    },
  }
}

async function gone(pid: number): Promise<void> {
  await vi.waitFor(
    () => {
      if (existsSync(`/proc/${pid}`)) throw new Error(`process ${pid} is there`)
    },
    { timeout: 5_000, interval: 5 },
  )
}
