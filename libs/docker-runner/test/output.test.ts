import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { OUTPUT_START, type OutputCursor, type OutputStream, type WorkerName } from '@gpu-service/tasks'
import { readOutput } from '@gpu-service/tasks/testing'
import { type DockerRig, openRig } from './rig.ts'

const LINES = 100_000
const BOTH_STREAMS = `seq 1 ${LINES} & seq 1 ${LINES} >&2 & wait`

describe('reading a worker on Docker', { timeout: 120_000 }, () => {
  let rig: DockerRig
  const never = new AbortController().signal

  beforeEach(async () => {
    rig = await openRig()
  })

  afterEach(async () => {
    await rig[Symbol.asyncDispose]()
    expect(await rig.containers()).toEqual([])
  })

  it('is complete and in order where both streams flood at once', async () => {
    const { name } = await rig.start(BOTH_STREAMS)
    const { stdout, stderr, gaps, end } = await readOutput(rig.runner, name, { signal: never })
    expect(stdout.toString()).toBe(numbers(LINES))
    expect(stderr.toString()).toBe(numbers(LINES))
    expect(gaps).toEqual([])
    expect(end).toMatchObject({ exitCode: 0 })
  })

  it('loses and repeats nothing where its reader is killed 20 times', async () => {
    const random = seeded(20_261_123)
    const { name } = await rig.start(BOTH_STREAMS)
    const kept: Record<OutputStream, string> = { stdout: '', stderr: '' }
    let cursor: OutputCursor = OUTPUT_START
    for (let kill = 0; kill < 20; kill += 1) {
      const reader = createKilledReader(cursor)
      await reader.read(rig, name, 1 + Math.floor(random() * 40))
      cursor = reader.cursor()
      kept.stdout += reader.committed('stdout')
      kept.stderr += reader.committed('stderr')
    }
    const rest = await readOutput(rig.runner, name, { after: cursor, signal: never })
    expect(kept.stdout.length + kept.stderr.length).toBeGreaterThan(0)
    expect(kept.stdout + rest.stdout.toString()).toBe(numbers(LINES))
    expect(kept.stderr + rest.stderr.toString()).toBe(numbers(LINES))
    expect(rest.gaps).toEqual([])
  })

  it('of many at once is nothing to warn of', async () => {
    const warnings: string[] = []
    const onWarning = ({ message }: Error): void => void warnings.push(message)
    process.on('warning', onWarning)
    const workers = await Promise.all(Array.from({ length: 12 }, () => rig.start('echo there; sleep 1')))
    const outputs = await Promise.all(
      workers.map(({ name }) => readOutput(rig.runner, name, { signal: new AbortController().signal })),
    )
    process.off('warning', onWarning)
    expect(outputs.map(({ stdout }) => stdout.toString())).toEqual(Array(12).fill('there\n'))
    expect(warnings).toEqual([])
  })

  it('keeps a line of 10 MB whole, with the lines around it', async () => {
    const { name } = await rig.start(
      "echo before; head -c 10000000 /dev/zero | tr '\\000' x; echo; echo after",
    )
    const { stdout } = await readOutput(rig.runner, name, { signal: never })
    expect(stdout.equals(Buffer.from(`before\n${'x'.repeat(10_000_000)}\nafter\n`))).toBe(true)
  })

  it('passes a long line on as it comes, and its cursor waits for the end of the line', async () => {
    const { name } = await rig.start("echo before; head -c 50000 /dev/zero | tr '\\000' x; sleep 60")
    const { stdout, marks } = await readOutput(rig.runner, name, {
      signal: never,
      until: (text) => text.stdout.length >= 7 + 3 * 16_384,
    })
    expect(stdout.toString()).toBe(`before\n${'x'.repeat(3 * 16_384)}`)
    expect(new Set(marks.map((mark) => mark.cursor)).size).toBe(1)
    await rig.runner.stop(name, { graceMs: 1_000 })
    const rest = await readOutput(rig.runner, name, {
      after: { stdout: marks[0]?.cursor ?? '', stderr: '' },
      signal: never,
    })
    expect(rest.stdout.toString()).toBe('x'.repeat(50_000))
  })

  it('tells the millisecond in which each line was written', async () => {
    const { name } = await rig.start('for i in 1 2 3 4 5 6 7 8 9; do date +%s; sleep 0.11; done')
    for await (const item of rig.runner.output(name, { after: OUTPUT_START, signal: never })) {
      if (item.kind !== 'data') continue
      expect(Math.floor(item.at / 1_000)).toBeCloseTo(Number(Buffer.from(item.bytes).toString()), -1)
      expect(item.cursor.slice(0, 23)).toBe(new Date(item.at).toISOString().slice(0, 23))
    }
  })

  it('refuses a cursor that is not of its own making', async () => {
    const { name } = await rig.start('true')
    const items = rig.runner.output(name, { after: { stdout: '12', stderr: '' }, signal: never })
    await expect(items[Symbol.asyncIterator]().next()).rejects.toThrow(TypeError)
  })

  it('is lost within 10 s where the container is removed by hand', async () => {
    const { name } = await rig.start('echo up; sleep 60')
    const removed = await readOutput(rig.runner, name, {
      signal: never,
      until: (text) => text.stdout.includes('up'),
    })
    const after = performance.now()
    const reading = readOutput(rig.runner, name, { after: removed.cursor, signal: never })
    await rig.docker.getContainer(name).remove({ force: true })
    expect(await reading).toMatchObject({ end: 'lost', marks: [] })
    expect(performance.now() - after).toBeLessThan(10_000)
  })

  it('is lost where another container takes over the name', async () => {
    const { name } = await rig.start('echo first; sleep 60')
    const kinds: string[] = []
    for await (const item of rig.runner.output(name, { after: OUTPUT_START, signal: never })) {
      kinds.push(item.kind === 'data' ? Buffer.from(item.bytes).toString() : item.kind)
      if (kinds.length > 1) continue
      await rig.docker.getContainer(name).remove({ force: true })
      const Labels = { 'gpu-service.installation': rig.installation, 'gpu-service.worker': 'another' }
      const other = await rig.docker.createContainer({
        name,
        Labels,
        Image: 'busybox:test',
        Cmd: ['echo', 'second'],
      })
      await other.start()
    }
    expect(kinds).toEqual(['first\n', 'lost'])
  })

  it('waits for a worker that was created and not started yet', async () => {
    const order = rig.order('echo up')
    const Labels = { 'gpu-service.installation': rig.installation, 'gpu-service.worker': order.workerId }
    const container = await rig.docker.createContainer({
      name: order.name,
      Labels,
      Image: 'busybox:test',
      Cmd: ['echo', 'up'],
    })
    expect(await rig.runner.inspect(order.name)).toEqual({ phase: 'created' })
    const reading = readOutput(rig.runner, order.name, { signal: never })
    await container.start()
    expect((await reading).stdout.toString()).toBe('up\n')
  })

  it('ends when the runner is disposed, and leaves the worker running', async () => {
    const { name } = await rig.start('echo up; sleep 60')
    const items = rig.runner.output(name, { after: OUTPUT_START, signal: never })[Symbol.asyncIterator]()
    await items.next()
    const waiting = items.next()
    await rig.runner[Symbol.asyncDispose]()
    expect(await waiting).toMatchObject({ done: true })
    expect((await rig.docker.getContainer(name).inspect()).State.Running).toBe(true)
  })
})

/** Reads some items, then dies: what was read after the last line of a stream is gone with it. */
function createKilledReader(after: OutputCursor) {
  const text: Record<OutputStream, string> = { stdout: '', stderr: '' }
  const cursor: Record<OutputStream, string> = { ...after }
  return {
    async read(rig: DockerRig, name: WorkerName, items: number): Promise<void> {
      let left = items
      for await (const item of rig.runner.output(name, { after, signal: new AbortController().signal })) {
        if (item.kind !== 'data') return
        text[item.stream] += Buffer.from(item.bytes).toString()
        cursor[item.stream] = item.cursor
        if (--left === 0) return
      }
    },
    cursor: (): OutputCursor => ({ ...cursor }),
    committed: (stream: OutputStream) => text[stream].slice(0, text[stream].lastIndexOf('\n') + 1),
  }
}

function numbers(last: number): string {
  return Array.from({ length: last }, (_, index) => `${index + 1}\n`).join('')
}

/** mulberry32 */
function seeded(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296
  }
}
