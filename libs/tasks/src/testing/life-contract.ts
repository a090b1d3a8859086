import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { describe, expect, it, vi } from 'vitest'
import { HELD_FIFO, holders, idOf, type RunnerStage } from './runner-stage.ts'

const run = promisify(execFile)

/** What runs under these numbers on this host. */
/** Whether the process is one of the container's: an engine in a process namespace of its own counts otherwise than this machine. */
async function isIn(containerId: string, pid: number | undefined): Promise<boolean> {
  const groups = await readFile(`/proc/${pid}/cgroup`, 'utf8').catch(() => '')
  return groups.includes(containerId)
}

async function commandLines(pids: readonly number[]): Promise<string[]> {
  const { stdout } = await run('ps', ['-ww', '-o', 'args=', '-p', pids.join(',')])
  return stdout.split('\n').map((line) => line.trim())
}

/** How workers come, are seen and go. */
export function describeLife(stage: RunnerStage): void {
  const { order, start, read, say, files } = stage

  describe('start', () => {
    it('starts a worker under its name and tells when', async () => {
      const before = Date.now()
      const placed = order('sleep 60')
      const started = await stage.runner.start(placed)
      expect(idOf(started)).not.toBe('')
      const startedAt = started.status === 'started' ? started.startedAt : 0
      expect(startedAt).toBeGreaterThan(before - 2_000)
      expect(startedAt).toBeLessThan(Date.now() + 2_000)
      expect(await stage.runner.inspect(placed.name)).toMatchObject({ phase: 'running' })
    })

    it('adopts a worker that runs under the name already', async () => {
      const placed = order('echo once >> "$OUTPUT_DIR/starts"; echo up; sleep 60')
      const first = await stage.runner.start(placed)
      await read(placed.name, { until: ({ stdout }) => stdout.includes('up') })
      const again = await (await stage.rig.reopen()).start(placed)
      expect(again).toMatchObject({ status: 'started' })
      expect(idOf(again)).toBe(idOf(first))
      expect(await readFile(join(files(placed), 'starts'), 'utf8')).toBe('once\n')
      expect(await stage.runner.list()).toHaveLength(1)
    })

    it('leaves a worker alone that has ended under the name', async () => {
      const placed = await start('echo once >> "$OUTPUT_DIR/starts"; exit 4')
      const first = await read(placed.name)
      expect(await stage.runner.start(placed)).toMatchObject({ status: 'started' })
      const second = await read(placed.name)
      expect(second.end).toMatchObject({ exitCode: 4 })
      expect(second.end).toEqual(first.end)
      expect(await readFile(join(files(placed), 'starts'), 'utf8')).toBe('once\n')
    })

    it('says COMMAND_NOT_FOUND for a missing command and leaves nothing behind', async () => {
      const placed = order('', { command: ['/no/such/program', 'x'] })
      const failed = await stage.runner.start(placed)
      expect(failed).toMatchObject({ status: 'failed', code: 'COMMAND_NOT_FOUND' })
      expect(failed.status === 'failed' && failed.message).toContain('/no/such/program')
      expect(await stage.runner.list()).toEqual([])
      expect(await stage.runner.inspect(placed.name)).toEqual({ phase: 'unknown' })
      expect(existsSync(files(placed))).toBe(false)
    })

    it('passes arguments on as they are', async () => {
      const args = ['', ' two  words ', '$HOME', '"; exit 9; \'', 'a\nb', '*', 'ü€😀', '-n']
      const { stdout } = await say('', {
        command: ['/bin/sh', '-c', 'for a in "$@"; do printf "[%s]\\n" "$a"; done', 'sh', ...args],
      })
      expect(stdout.toString()).toBe(args.map((arg) => `[${arg}]\n`).join(''))
    })
  })

  describe('the end', () => {
    it.each([
      ['exit 0', 0],
      ['exit 1', 1],
      ['exit 255', 255],
      ['kill -TERM $$; sleep 60', 143],
      ['kill -KILL $$; sleep 60', 137],
      ['kill -ABRT $$; sleep 60', 134],
    ])('of `%s` has the exit code %i', async (script, exitCode) => {
      expect((await say(script)).end).toMatchObject({ exitCode, oomKilled: false })
    })

    it('comes with the main process, and takes its children with it', async () => {
      const placed = await start(
        `${HELD_FIFO} (trap "" TERM; sleep 60) & sleep 60 & echo up; while [ ! -e "$OUTPUT_DIR/go" ]; do sleep 0.02; done; exit 5`,
      )
      await read(placed.name, { until: ({ stdout }) => stdout.includes('up') })
      const released = await holders(files(placed))
      await writeFile(join(files(placed), 'go'), '')
      expect((await read(placed.name)).end).toMatchObject({ exitCode: 5 })
      await released()
    })
  })

  describe('stop', () => {
    it('asks with SIGTERM and lets the worker end by itself', async () => {
      const { name } = await start('trap "echo bye; exit 7" TERM; echo up; while :; do sleep 0.05; done')
      await read(name, { until: ({ stdout }) => stdout.includes('up') })
      await stage.runner.stop(name, { graceMs: 20_000 })
      expect(await stage.runner.inspect(name)).toMatchObject({ phase: 'exited', exit: { exitCode: 7 } })
      expect((await read(name)).stdout.toString()).toBe('up\nbye\n')
    })

    it('forces a worker that does not end within the grace period', async () => {
      const { name } = await start('trap "" TERM; echo up; while :; do sleep 0.05; done')
      await read(name, { until: ({ stdout }) => stdout.includes('up') })
      const askedAt = performance.now()
      await stage.runner.stop(name, { graceMs: 300 })
      expect(performance.now() - askedAt).toBeGreaterThan(250)
      expect(await stage.runner.inspect(name)).toMatchObject({ phase: 'exited', exit: { exitCode: 137 } })
    })

    it('ends all processes of the worker', async () => {
      const placed = await start(`${HELD_FIFO} (trap "" TERM; sleep 60) & (sleep 60 &) ; echo up; sleep 60`)
      await read(placed.name, { until: ({ stdout }) => stdout.includes('up') })
      const released = await holders(files(placed))
      await stage.runner.stop(placed.name, { graceMs: 200 })
      await released()
    })

    it('reaches a worker that another runner has started', async () => {
      const { name } = await start('echo up; sleep 60')
      await (await stage.rig.reopen()).stop(name, { graceMs: 5_000 })
      expect((await read(name)).end).toMatchObject({ exitCode: 143 })
    })

    it('does no harm to a worker that has ended, or that never was', async () => {
      const { name } = await start('exit 2')
      await read(name)
      await stage.runner.stop(name, { graceMs: 1_000 })
      expect((await read(name)).end).toMatchObject({ exitCode: 2 })
      await stage.runner.stop(order('').name, { graceMs: 1_000 })
    })
  })

  describe('list and inspect', () => {
    it('show a worker in each phase, and only to its installation', async () => {
      const placed = order('echo up; while [ ! -e "$OUTPUT_DIR/go" ]; do sleep 0.02; done; exit 6')
      const stranger = await stage.rig.stranger()
      expect(await stage.runner.inspect(placed.name)).toEqual({ phase: 'unknown' })
      expect(await stage.runner.list()).toEqual([])

      const started = await stage.runner.start(placed)
      const running = await stage.runner.inspect(placed.name)
      expect(running).toMatchObject({ phase: 'running', containerId: idOf(started) })
      expect(await stage.runner.list()).toEqual([{ name: placed.name, state: running }])
      expect(await stranger.list()).toEqual([])

      await writeFile(join(files(placed), 'go'), '')
      const { end } = await read(placed.name)
      const exited = await stage.runner.inspect(placed.name)
      expect(exited).toEqual({ phase: 'exited', containerId: idOf(started), exit: end })
      expect(await (await stage.rig.reopen()).list()).toEqual([{ name: placed.name, state: exited }])
      expect(await stranger.list()).toEqual([])

      await stage.runner.remove(placed.name)
      expect(await stage.runner.inspect(placed.name)).toEqual({ phase: 'unknown' })
      expect(await stage.runner.list()).toEqual([])
    })
  })

  describe('processes', () => {
    it("are the worker's while it runs, with those that it has started, and none before and afterwards", async () => {
      const placed = order(
        'sleep 6161 & (sleep 6262 &); while [ ! -e "$OUTPUT_DIR/go" ]; do sleep 0.02; done',
      )
      expect(await stage.runner.processes(placed.name)).toEqual([])
      const other = await start('sleep 6363')
      const containerId = idOf(await stage.runner.start(placed))
      const later = await stage.rig.reopen()
      for (const runner of [stage.runner, later])
        // A child is its parent's double until it becomes a program of its own.
        await vi.waitFor(async () => {
          const pids = await runner.processes(placed.name)
          expect(pids.length).toBeGreaterThanOrEqual(3)
          const others = await runner.processes(other.name)
          expect(others.length).toBeGreaterThan(0)
          expect(pids.filter((pid) => others.includes(pid))).toEqual([])
          if (runner.kind === 'docker' && !(await isIn(containerId, pids[0]))) return
          const named = await commandLines(pids)
          expect(named).toEqual(expect.arrayContaining(['sleep 6161', 'sleep 6262']))
          expect(named).toContainEqual(expect.stringMatching(/sh -c sleep 6161 &/))
          expect(named).not.toContain('sleep 6363')
        }, 10_000)

      await writeFile(join(files(placed), 'go'), '')
      await read(placed.name)
      expect(await stage.runner.processes(placed.name)).toEqual([])
      await stage.runner.remove(placed.name)
      expect(await stage.runner.processes(placed.name)).toEqual([])
    })
  })

  describe('remove', () => {
    it('forgets a worker with its log and its files', async () => {
      const placed = await start('mkdir -p "$OUTPUT_DIR/a/b"; echo x > "$OUTPUT_DIR/a/b/c"; echo said')
      await read(placed.name)
      expect(existsSync(join(files(placed), 'a/b/c'))).toBe(true)
      await stage.runner.remove(placed.name)
      expect(existsSync(files(placed))).toBe(false)
      expect(await read(placed.name)).toMatchObject({ end: 'lost', marks: [] })
    })

    it('forces a worker that still runs', async () => {
      const placed = await start(`${HELD_FIFO} trap "" TERM; echo up; while :; do sleep 0.05; done`)
      await read(placed.name, { until: ({ stdout }) => stdout.includes('up') })
      const released = await holders(files(placed))
      await stage.runner.remove(placed.name)
      await released()
      expect(await stage.runner.inspect(placed.name)).toEqual({ phase: 'unknown' })
    })

    it('does no harm where the worker is gone', async () => {
      const { name } = await start('exit 0')
      await read(name)
      await stage.runner.remove(name)
      await stage.runner.remove(name)
    })
  })
}
