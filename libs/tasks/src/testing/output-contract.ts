import { existsSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, it, vi } from 'vitest'
import { OUTPUT_START, type OutputStream } from '../runner.ts'
import type { RunnerStage } from './runner-stage.ts'
import { type ReadOutput, readOutput } from './worker-script.ts'

const MIB = 1024 * 1024

/** How workers are read. */
export function describeOutput(stage: RunnerStage): void {
  const { order, start, read, say, files } = stage

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
      const restarted = await readOutput(await stage.rig.reopen(), name, { signal: stage.signal() })
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
      // Long, because an engine may hold back up to 16 KiB of a line that has not ended.
      const begun = 'no line yet '.repeat(2_000)
      const placed = await start(
        `echo one; printf '${begun}'; while [ ! -e "$OUTPUT_DIR/go" ]; do sleep 0.02; done; echo; echo three`,
      )
      const part = await read(placed.name, { until: ({ stdout }) => stdout.length > 16_384 })
      await writeFile(join(files(placed), 'go'), '')
      const rest = await read(placed.name, { after: part.cursor })
      expect(rest.stdout.toString()).toBe(`${begun}\nthree\n`)
    })

    it('is read on by the next runner from where the last one stopped', async () => {
      const placed = await start(
        'seq 1 1000; seq 1 100 >&2; while [ ! -e "$OUTPUT_DIR/go" ]; do sleep 0.02; done; seq 1001 2000; seq 101 200 >&2',
      )
      const first = await read(placed.name, {
        until: ({ stdout, stderr }) => stdout.includes('\n1000\n') && stderr.includes('\n100\n'),
      })
      await stage.restart()
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
      for await (const item of stage.runner.output(name, { after: OUTPUT_START, signal: stage.signal() })) {
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
      const items = stage.runner
        .output(name, { after: OUTPUT_START, signal: stop.signal })
        [Symbol.asyncIterator]()
      await items.next()
      const waiting = items.next()
      const abortedAt = performance.now()
      stop.abort()
      expect(await waiting).toMatchObject({ done: true })
      expect(performance.now() - abortedAt).toBeLessThan(1_000)
      expect(await stage.runner.inspect(name)).toMatchObject({ phase: 'running' })
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
      for await (const item of stage.runner.output(placed.name, {
        after: OUTPUT_START,
        signal: stage.signal(),
      })) {
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
      const other = await stage.rig.reopen()
      const items = stage.runner.output(name, { after: OUTPUT_START, signal: stage.signal() })
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

async function appearance(path: string): Promise<void> {
  await vi.waitFor(
    () => {
      if (!existsSync(path)) throw new Error(`${path} is not there`)
    },
    { timeout: 50_000, interval: 20 },
  )
}
