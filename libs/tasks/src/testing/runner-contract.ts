import { existsSync } from 'node:fs'
import { open, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { OUTPUT_START, type OutputStream, type WorkerOrder, type WorkerRunner } from '../runner.ts'
import type { GpuId, WorkerName } from '../ids.ts'
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

const MIB = 1024 * 1024

/** What every runner promises, told by workers that are small shell scripts. Call it at the top of a test file. */
export function describeWorkerRunner(title: string, harness: RunnerHarness): void {
  describe(title, { timeout: 60_000 }, () => {
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

    function order(script: string, more: Partial<ScriptOptions> = {}): WorkerOrder {
      return scriptOrder({ installation: rig.installation, image: harness.image, script, ...more })
    }

    async function start(script: string, more: Partial<ScriptOptions> = {}): Promise<WorkerOrder> {
      const placed = order(script, more)
      expect(await runner.start(placed)).toMatchObject({ status: 'started' })
      return placed
    }

    function read(name: WorkerName, options: Partial<ReadOptions> = {}): Promise<ReadOutput> {
      return readOutput(runner, name, { signal: ending.signal, ...options })
    }

    /** Starts a worker, reads it to its end and gives what it said. */
    async function say(script: string, more: Partial<ScriptOptions> = {}): Promise<ReadOutput> {
      const { name } = await start(script, more)
      return read(name)
    }

    /** The folder of a one-off worker's files, as the test reaches it. */
    function files(placed: WorkerOrder): string {
      if (!placed.run) throw new Error('a session worker has no folder of its own')
      return runner.outputFolder(placed.name, placed.run.runId).host
    }

    describe('start', () => {
      it('starts a worker under its name and tells when', async () => {
        const before = Date.now()
        const placed = order('sleep 60')
        const started = await runner.start(placed)
        expect(idOf(started)).not.toBe('')
        const startedAt = started.status === 'started' ? started.startedAt : 0
        expect(startedAt).toBeGreaterThan(before - 2_000)
        expect(startedAt).toBeLessThan(Date.now() + 2_000)
        expect(await runner.inspect(placed.name)).toMatchObject({ phase: 'running' })
      })

      it('adopts a worker that runs under the name already', async () => {
        const placed = order('echo once >> "$OUTPUT_DIR/starts"; echo up; sleep 60')
        const first = await runner.start(placed)
        await read(placed.name, { until: ({ stdout }) => stdout.includes('up') })
        const again = await (await rig.reopen()).start(placed)
        expect(again).toMatchObject({ status: 'started' })
        expect(idOf(again)).toBe(idOf(first))
        expect(await readFile(join(files(placed), 'starts'), 'utf8')).toBe('once\n')
        expect(await runner.list()).toHaveLength(1)
      })

      it('leaves a worker alone that has ended under the name', async () => {
        const placed = await start('echo once >> "$OUTPUT_DIR/starts"; exit 4')
        const first = await read(placed.name)
        expect(await runner.start(placed)).toMatchObject({ status: 'started' })
        const second = await read(placed.name)
        expect(second.end).toMatchObject({ exitCode: 4 })
        expect(second.end).toEqual(first.end)
        expect(await readFile(join(files(placed), 'starts'), 'utf8')).toBe('once\n')
      })

      it('says COMMAND_NOT_FOUND for a missing command and leaves nothing behind', async () => {
        const placed = order('', { command: ['/no/such/program', 'x'] })
        const failed = await runner.start(placed)
        expect(failed).toMatchObject({ status: 'failed', code: 'COMMAND_NOT_FOUND' })
        expect(failed.status === 'failed' && failed.message).toContain('/no/such/program')
        expect(await runner.list()).toEqual([])
        expect(await runner.inspect(placed.name)).toEqual({ phase: 'unknown' })
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

    describe('output', () => {
      it('is complete and in order per stream, and ends once and last', async () => {
        const { stdout, stderr, end, gaps } = await say(
          'i=0; while [ $i -lt 3000 ]; do echo "out $i"; echo "err $i" >&2; i=$((i+1)); done; exit 3',
        )
        expect(stdout.toString()).toBe(numbered('out', 3_000))
        expect(stderr.toString()).toBe(numbered('err', 3_000))
        expect(end).toMatchObject({ exitCode: 3, oomKilled: false })
        expect(gaps).toEqual([])
      })

      it('is the same however often it is read, also after the end', async () => {
        const { name } = await start('seq 1 20000; seq 1 500 >&2')
        const live = await read(name)
        const later = await read(name)
        const restarted = await readOutput(await rig.reopen(), name, { signal: ending.signal })
        expect(live.stdout.equals(later.stdout) && live.stderr.equals(later.stderr)).toBe(true)
        expect(live.stdout.equals(restarted.stdout) && live.stderr.equals(restarted.stderr)).toBe(true)
        expect(later.end).toEqual(live.end)
        expect(restarted.end).toEqual(live.end)
      })

      it('goes on from every cursor without a repeat and without a loss', async () => {
        const { name } = await start(
          'for i in 1 2 3 4 5 6; do seq 1 400; sleep 0.05; seq 1 90 >&2; printf "half "; sleep 0.05; done; echo; printf tail; printf tail >&2',
        )
        const whole = await read(name)
        expect(whole.end).toMatchObject({ exitCode: 0 })
        for (const cursor of new Map(
          whole.marks.map((mark) => [`${mark.stream} ${mark.cursor}`, mark]),
        ).values()) {
          const rest = await read(name, { after: { ...OUTPUT_START, [cursor.stream]: cursor.cursor } })
          const other = cursor.stream === 'stdout' ? 'stderr' : 'stdout'
          expect(rest[cursor.stream].toString()).toBe(afterLastLine(whole, cursor).toString())
          expect(rest[other].equals(whole[other])).toBe(true)
          expect(rest.end).toEqual(whole.end)
        }
      })

      it('moves a cursor at line ends only', async () => {
        const placed = await start(
          'echo one; printf "no line yet"; while [ ! -e "$OUTPUT_DIR/go" ]; do sleep 0.02; done; echo; echo three',
        )
        const part = await read(placed.name, { until: ({ stdout }) => stdout.endsWith('no line yet') })
        await writeFile(join(files(placed), 'go'), '')
        const rest = await read(placed.name, { after: part.cursor })
        expect(rest.stdout.toString()).toBe('no line yet\nthree\n')
      })

      it('is read on by the next runner from where the last one stopped', async () => {
        const placed = await start(
          'seq 1 1000; seq 1 100 >&2; while [ ! -e "$OUTPUT_DIR/go" ]; do sleep 0.02; done; seq 1001 2000; seq 101 200 >&2',
        )
        const first = await read(placed.name, {
          until: ({ stdout, stderr }) => stdout.includes('\n1000\n') && stderr.includes('\n100\n'),
        })
        await runner[Symbol.asyncDispose]()
        runner = await rig.reopen()
        await writeFile(join(files(placed), 'go'), '')
        const second = await read(placed.name, { after: first.cursor })
        expect(first.stdout.toString() + second.stdout.toString()).toBe(lines(1, 2_000))
        expect(first.stderr.toString() + second.stderr.toString()).toBe(lines(1, 200))
        expect(second.end).toMatchObject({ exitCode: 0 })
      })

      it('comes while the worker runs', async () => {
        const { name } = await start('echo now; sleep 60')
        const { stdout, end } = await read(name, { until: (text) => text.stdout === 'now\n' })
        expect(stdout.toString()).toBe('now\n')
        expect(end).toBeNull()
      })

      it('is stamped with a plausible time', async () => {
        const before = Date.now()
        const { name } = await start('echo now')
        for await (const item of runner.output(name, { after: OUTPUT_START, signal: ending.signal })) {
          const at = item.kind === 'data' ? item.at : item.kind === 'end' ? item.exit.finishedAt : 0
          expect(at).toBeGreaterThan(before - 2_000)
          expect(at).toBeLessThan(Date.now() + 2_000)
        }
      })

      it.each([16_383, 16_384, 16_385, 50_000, MIB])('keeps a line of %i bytes whole', async (bytes) => {
        const { stdout, end } = await say(
          `echo before; head -c ${bytes} /dev/zero | tr '\\000' x; echo; echo after`,
        )
        expect(stdout.toString()).toBe(`before\n${'x'.repeat(bytes)}\nafter\n`)
        expect(end).toMatchObject({ exitCode: 0 })
      })

      it('keeps a last line that has no newline', async () => {
        const { stdout, stderr } = await say('echo one; printf two; printf three >&2')
        expect(stdout.toString()).toBe('one\ntwo')
        expect(stderr.toString()).toBe('three')
      })

      it('keeps NUL, escape and carriage return, and the lines beside invalid UTF-8', async () => {
        const { stdout } = await say(
          "printf 'a\\000b\\033[1m\\rc\\n'; printf '\\377\\376 broken\\n'; printf 'whole \\342\\202\\254\\n'",
        )
        const [controls, broken, whole] = stdout.toString().split('\n')
        expect(controls).toBe('a\0b\u001b[1m\rc')
        expect(broken).toMatch(/ broken$/)
        expect(whole).toBe('whole €')
      })

      it('of a worker that says nothing is its end alone', async () => {
        const { stdout, stderr, marks, end } = await say('exit 0')
        expect({ stdout: stdout.length, stderr: stderr.length, marks }).toEqual({
          stdout: 0,
          stderr: 0,
          marks: [],
        })
        expect(end).toMatchObject({ exitCode: 0 })
      })

      it('ends without an end when the signal is aborted while it waits', async () => {
        const { name } = await start('echo up; sleep 60')
        const stop = new AbortController()
        const items = runner
          .output(name, { after: OUTPUT_START, signal: stop.signal })
          [Symbol.asyncIterator]()
        await items.next()
        const waiting = items.next()
        const abortedAt = performance.now()
        stop.abort()
        expect(await waiting).toMatchObject({ done: true })
        expect(performance.now() - abortedAt).toBeLessThan(1_000)
        expect(await runner.inspect(name)).toMatchObject({ phase: 'running' })
      })

      it('yields nothing under a signal that is aborted already', async () => {
        const { name } = await start('echo up')
        const { marks, end } = await read(name, { signal: AbortSignal.abort() })
        expect({ marks, end }).toEqual({ marks: [], end: null })
      })

      it('can be left and read again', async () => {
        const { name } = await start('seq 1 5000; sleep 0.2; seq 5001 6000')
        for (let round = 0; round < 5; round += 1) await read(name, { until: () => true })
        expect((await read(name)).stdout.toString()).toBe(lines(1, 6_000))
      })

      it('is read by two readers at once', async () => {
        const { name } = await start('seq 1 3000; sleep 0.1; seq 3001 6000')
        const [one, two] = await Promise.all([read(name), read(name)])
        expect(one.stdout.toString()).toBe(lines(1, 6_000))
        expect(two.stdout.toString()).toBe(lines(1, 6_000))
      })

      it('does not hold back the worker where its reader stalls, and is complete afterwards', async () => {
        const placed = await start('seq 1 1000000; touch "$OUTPUT_DIR/done"')
        const stdout: Buffer[] = []
        for await (const item of runner.output(placed.name, { after: OUTPUT_START, signal: ending.signal })) {
          if (item.kind !== 'data') continue
          stdout.push(Buffer.from(item.bytes))
          if (stdout.length === 1) await appearance(join(files(placed), 'done'))
        }
        expect(Buffer.concat(stdout).equals(Buffer.from(lines(1, 1_000_000)))).toBe(true)
      })

      it('of a worker that nobody knows is lost', async () => {
        const { end, marks } = await read(order('').name)
        expect({ end, marks }).toEqual({ end: 'lost', marks: [] })
      })

      it('ends once where the worker is removed behind the reader', async () => {
        const { name } = await start('echo up; sleep 60')
        const other = await rig.reopen()
        const items = runner.output(name, { after: OUTPUT_START, signal: ending.signal })
        const kinds: string[] = []
        for await (const item of items) {
          if (kinds.length === 0) await other.remove(name)
          kinds.push(item.kind)
        }
        expect(kinds).toHaveLength(2)
        expect(kinds[0]).toBe('data')
        expect(['end', 'lost']).toContain(kinds[1])
        expect((await read(name)).end).toBe('lost')
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
        await runner.stop(name, { graceMs: 20_000 })
        expect(await runner.inspect(name)).toMatchObject({ phase: 'exited', exit: { exitCode: 7 } })
        expect((await read(name)).stdout.toString()).toBe('up\nbye\n')
      })

      it('forces a worker that does not end within the grace period', async () => {
        const { name } = await start('trap "" TERM; echo up; while :; do sleep 0.05; done')
        await read(name, { until: ({ stdout }) => stdout.includes('up') })
        const askedAt = performance.now()
        await runner.stop(name, { graceMs: 300 })
        expect(performance.now() - askedAt).toBeGreaterThan(250)
        expect(await runner.inspect(name)).toMatchObject({ phase: 'exited', exit: { exitCode: 137 } })
      })

      it('ends all processes of the worker', async () => {
        const placed = await start(`${HELD_FIFO} (trap "" TERM; sleep 60) & (sleep 60 &) ; echo up; sleep 60`)
        await read(placed.name, { until: ({ stdout }) => stdout.includes('up') })
        const released = await holders(files(placed))
        await runner.stop(placed.name, { graceMs: 200 })
        await released()
      })

      it('reaches a worker that another runner has started', async () => {
        const { name } = await start('echo up; sleep 60')
        await (await rig.reopen()).stop(name, { graceMs: 5_000 })
        expect((await read(name)).end).toMatchObject({ exitCode: 143 })
      })

      it('does no harm to a worker that has ended, or that never was', async () => {
        const { name } = await start('exit 2')
        await read(name)
        await runner.stop(name, { graceMs: 1_000 })
        expect((await read(name)).end).toMatchObject({ exitCode: 2 })
        await runner.stop(order('').name, { graceMs: 1_000 })
      })
    })

    describe('list and inspect', () => {
      it('show a worker in each phase, and only to its installation', async () => {
        const placed = order('echo up; while [ ! -e "$OUTPUT_DIR/go" ]; do sleep 0.02; done; exit 6')
        const stranger = await rig.stranger()
        expect(await runner.inspect(placed.name)).toEqual({ phase: 'unknown' })
        expect(await runner.list()).toEqual([])

        const started = await runner.start(placed)
        const running = await runner.inspect(placed.name)
        expect(running).toMatchObject({ phase: 'running', containerId: idOf(started) })
        expect(await runner.list()).toEqual([{ name: placed.name, state: running }])
        expect(await stranger.list()).toEqual([])

        await writeFile(join(files(placed), 'go'), '')
        const { end } = await read(placed.name)
        const exited = await runner.inspect(placed.name)
        expect(exited).toEqual({ phase: 'exited', containerId: idOf(started), exit: end })
        expect(await (await rig.reopen()).list()).toEqual([{ name: placed.name, state: exited }])
        expect(await stranger.list()).toEqual([])

        await runner.remove(placed.name)
        expect(await runner.inspect(placed.name)).toEqual({ phase: 'unknown' })
        expect(await runner.list()).toEqual([])
      })
    })

    describe('remove', () => {
      it('forgets a worker with its log and its files', async () => {
        const placed = await start('mkdir -p "$OUTPUT_DIR/a/b"; echo x > "$OUTPUT_DIR/a/b/c"; echo said')
        await read(placed.name)
        expect(existsSync(join(files(placed), 'a/b/c'))).toBe(true)
        await runner.remove(placed.name)
        expect(existsSync(files(placed))).toBe(false)
        expect(await read(placed.name)).toMatchObject({ end: 'lost', marks: [] })
      })

      it('forces a worker that still runs', async () => {
        const placed = await start(`${HELD_FIFO} trap "" TERM; echo up; while :; do sleep 0.05; done`)
        await read(placed.name, { until: ({ stdout }) => stdout.includes('up') })
        const released = await holders(files(placed))
        await runner.remove(placed.name)
        await released()
        expect(await runner.inspect(placed.name)).toEqual({ phase: 'unknown' })
      })

      it('does no harm where the worker is gone', async () => {
        const { name } = await start('exit 0')
        await read(name)
        await runner.remove(name)
        await runner.remove(name)
      })
    })

    describe('what a worker finds', () => {
      it('is the environment of the protocol', async () => {
        const { placed, found } = await environmentOf({
          input: { prompt: 'hello' },
          gpus: [
            { id: 'GPU-00000000-0000-0000-0000-000000000003' as GpuId, index: 3, simulated: true },
            { id: 'GPU-00000000-0000-0000-0000-000000000005' as GpuId, index: 5, simulated: true },
          ],
        })
        expect(found).toMatchObject({
          MODEL_NAME: 'test-script',
          MODEL_PATH: harness.modelsPath,
          GPU_DEVICE: '3,5',
          TASK_ID: placed.run?.runId,
          TASK_INPUT: '{"prompt":"hello"}',
          PROTOCOL_VERSION: '1',
          PYTHONUNBUFFERED: '1',
        })
      })

      it('is no GPU where it was given none', async () => {
        expect((await environmentOf({})).found).toMatchObject({ GPU_DEVICE: '' })
      })

      it("is the preset's own variables above the service's", async () => {
        const { found } = await environmentOf({
          env: { MODEL_NAME: 'mine', EXTRA: 'a "quoted" $value' },
          modelPath: 'llama/7b',
        })
        expect(found).toMatchObject({
          MODEL_NAME: 'mine',
          EXTRA: 'a "quoted" $value',
          MODEL_PATH: `${harness.modelsPath}/llama/7b`,
        })
      })

      it("is nothing of the service's own environment", async () => {
        vi.stubEnv('DATABASE_URL', 'postgresql://secret')
        vi.stubEnv('CONTRACT_CANARY', 'canary')
        const { found } = await environmentOf({})
        expect(found).not.toHaveProperty('DATABASE_URL')
        expect(found).not.toHaveProperty('CONTRACT_CANARY')
      })

      it('is its input as a file, and a large one there alone', async () => {
        const input = { text: 'ü'.repeat(100_000) }
        const { stdout } = await say('cat "$INPUT_FILE"; echo; echo "${TASK_INPUT-absent}"', { input })
        const [file = '', variable] = stdout.toString().split('\n')
        expect(JSON.parse(file)).toEqual(input)
        expect(variable).toBe('absent')
      })

      it('is a home and a cache that it can write to, and an output folder that the service reads', async () => {
        const placed = await start(
          'echo 1 > "$HOME/x" && mkdir -p "$XDG_CACHE_HOME/y" && mkdir "$OUTPUT_DIR/z" && echo made > "$OUTPUT_DIR/z/file" && echo ok',
        )
        expect((await read(placed.name)).stdout.toString()).toBe('ok\n')
        expect(await readFile(join(files(placed), 'z/file'), 'utf8')).toBe('made\n')
      })

      async function environmentOf(
        more: Partial<ScriptOptions>,
      ): Promise<{ placed: WorkerOrder; found: Record<string, string> }> {
        const placed = await start('env', more)
        const { stdout } = await read(placed.name)
        const pairs = stdout
          .toString()
          .split('\n')
          .map((line): [string, string] => [
            line.slice(0, line.indexOf('=')),
            line.slice(line.indexOf('=') + 1),
          ])
        return { placed, found: Object.fromEntries(pairs) }
      }
    })

    describe('the stdin of a one-off worker', () => {
      it('is its `run` command, then the end, also for a large input', async () => {
        const input = { text: 'y'.repeat(200_000) }
        const placed = await start('cat; echo over >&2', { input })
        const { stdout, stderr } = await read(placed.name)
        expect(JSON.parse(stdout.toString())).toEqual({
          command: 'run',
          task_id: placed.run?.runId,
          attempt: 1,
          input,
          output_dir: runner.outputFolder(placed.name, placed.run?.runId ?? '').worker,
        })
        expect(stdout.toString().endsWith('}\n')).toBe(true)
        expect(stderr.toString()).toBe('over\n')
      })

      it('need not be read', async () => {
        const { stdout, end } = await say('echo fine', { input: { text: 'y'.repeat(200_000) } })
        expect(stdout.toString()).toBe('fine\n')
        expect(end).toMatchObject({ exitCode: 0 })
      })
    })

    describe('the stdin of a session worker', () => {
      const ECHO =
        'echo up; while IFS= read -r line; do printf "%s\\n" "$line"; case "$line" in *shutdown*) exit 0;; esac; done; echo closed'
      const run = { runId: 'task.1', attempt: 1, input: { prompt: 'ü' } }

      it('is the commands that are given to it, one per line', async () => {
        const { name } = await start(ECHO, { mode: 'SESSION' })
        const input = await runner.openInput(name)
        await input.run(run)
        await input.cancel('task.1')
        await input.shutdown()
        const { stdout, end } = await read(name)
        const [up, ...commands] = stdout.toString().trimEnd().split('\n')
        expect(up).toBe('up')
        expect(commands.map((line): unknown => JSON.parse(line))).toEqual([
          {
            command: 'run',
            task_id: 'task.1',
            attempt: 1,
            input: { prompt: 'ü' },
            output_dir: runner.outputFolder(name, 'task.1').worker,
          },
          { command: 'cancel', task_id: 'task.1' },
          { command: 'shutdown' },
        ])
        expect(end).toMatchObject({ exitCode: 0 })
        input.detach()
      })

      it('carries a large task', async () => {
        const { name } = await start(ECHO, { mode: 'SESSION' })
        const input = await runner.openInput(name)
        const large = { text: 'z'.repeat(200_000) }
        await input.run({ ...run, input: large })
        await input.shutdown()
        const { stdout } = await read(name)
        expect(JSON.parse(stdout.toString().split('\n')[1] ?? '')).toMatchObject({ input: large })
        input.detach()
      })

      it('gives each run a folder that the service reads', async () => {
        const { name } = await start(
          'IFS= read -r line; dir=${line##*output_dir\\":\\"}; echo made > "${dir%%\\"*}/file"; echo done; sleep 60',
          { mode: 'SESSION' },
        )
        const input = await runner.openInput(name)
        await input.run(run)
        input.detach()
        await read(name, { until: ({ stdout }) => stdout.includes('done') })
        expect(await readFile(join(runner.outputFolder(name, 'task.1').host, 'file'), 'utf8')).toBe('made\n')
      })

      it('stays open when it is let go of and when the runner ends, and is opened again by the next', async () => {
        const { name } = await start(ECHO, { mode: 'SESSION' })
        const first = await runner.openInput(name)
        await first.cancel('one')
        first.detach()
        const again = await runner.openInput(name)
        await again.cancel('two')
        const before = await read(name, { until: ({ stdout }) => stdout.includes('two') })
        await runner[Symbol.asyncDispose]()

        runner = await rig.reopen()
        const second = await runner.openInput(name)
        await second.cancel('three')
        await second.shutdown()
        const after = await read(name, { after: before.cursor })
        second.detach()
        expect(before.stdout.toString() + after.stdout.toString()).toBe(
          'up\n{"command":"cancel","task_id":"one"}\n{"command":"cancel","task_id":"two"}\n' +
            '{"command":"cancel","task_id":"three"}\n{"command":"shutdown"}\n',
        )
        expect(after.end).toMatchObject({ exitCode: 0 })
      })

      it('cannot be opened where there is no such worker', async () => {
        await expect(runner.openInput(order('').name)).rejects.toMatchObject({
          name: 'RunnerError',
          code: 'NOT_FOUND',
        })
      })
    })
  })
}

/** Holds a FIFO of the output folder open for as long as the script or a child of it lives. */
const HELD_FIFO = 'mkfifo "$OUTPUT_DIR/held"; exec 3<>"$OUTPUT_DIR/held";'

function idOf(result: Awaited<ReturnType<WorkerRunner['start']>>): string {
  if (result.status === 'failed') throw new Error(`the worker did not start: ${result.message}`)
  return result.containerId
}

function lines(first: number, last: number): string {
  return Array.from({ length: last - first + 1 }, (_, index) => `${first + index}\n`).join('')
}

function numbered(word: string, count: number): string {
  return Array.from({ length: count }, (_, index) => `${word} ${index}\n`).join('')
}

/** What stands after the last newline that had been yielded at a mark, to the end. */
function afterLastLine(whole: ReadOutput, mark: { stream: OutputStream; bytes: number }): Buffer {
  const stream = whole[mark.stream]
  return stream.subarray(stream.subarray(0, mark.bytes).lastIndexOf('\n') + 1)
}

/** Call what it gives to wait until nothing of the worker holds its FIFO any more. */
async function holders(folder: string): Promise<() => Promise<void>> {
  const fifo = await open(join(folder, 'held'), 'r')
  return async () => {
    await fifo.readFile()
    await fifo.close()
  }
}

async function appearance(path: string): Promise<void> {
  await vi.waitFor(
    () => {
      if (!existsSync(path)) throw new Error(`${path} is not there`)
    },
    { timeout: 50_000, interval: 20 },
  )
}
