import { existsSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { OUTPUT_START, type OutputCursor, type WorkerOutput } from '@gpu-service/tasks'
import { readOutput } from '@gpu-service/tasks/testing'
import type { EngineProxy } from './engine-proxy.ts'
import { type DockerRig, openProxiedRig, type ProxiedRig } from './rig.ts'

describe('an engine that is away, hangs or lies', { timeout: 60_000 }, () => {
  let proxied: ProxiedRig
  let rig: DockerRig
  let proxy: EngineProxy
  const never = new AbortController().signal

  beforeEach(async () => {
    proxied = await openProxiedRig({ callTimeoutMs: 1_500, pollMs: 300 })
    ;({ rig, proxy } = proxied)
  })

  afterEach(async () => {
    await proxied[Symbol.asyncDispose]()
    expect(await rig.containers()).toEqual([])
  })

  describe('at the start of a worker', () => {
    it('leaves one worker, where the answer to its creation was lost and the start was called again', async () => {
      const order = rig.order('cat')
      let lost = 0
      proxy.rule((line) =>
        line.includes('/containers/create') && lost++ === 0 ? { kind: 'lose answer' } : undefined,
      )
      await expect(rig.runner.start(order)).rejects.toMatchObject({
        name: 'RunnerError',
        code: 'ENGINE_UNAVAILABLE',
      })
      await vi.waitFor(async () => {
        expect(await rig.containers()).toEqual([order.name])
      })
      expect(await rig.runner.inspect(order.name)).toEqual({ phase: 'created' })

      expect(await rig.runner.start(order)).toMatchObject({ status: 'started' })
      expect(await rig.containers()).toEqual([order.name])
      const { stdout, end } = await readOutput(rig.runner, order.name, { signal: never })
      expect(stdout.toString()).toContain('"command":"run"')
      expect(end).toMatchObject({ exitCode: 0 })
    })

    it('leaves one worker, where the answer to its start was lost and the start was called again', async () => {
      const order = rig.order('echo started; sleep 60')
      let lost = 0
      proxy.rule((line) => (line.includes('/start') && lost++ === 0 ? { kind: 'lose answer' } : undefined))
      await expect(rig.runner.start(order)).rejects.toMatchObject({ code: 'ENGINE_UNAVAILABLE' })
      expect(await rig.runner.start(order)).toMatchObject({ status: 'started' })
      expect(await rig.containers()).toEqual([order.name])
    })

    it('waits for the container that an earlier call is just making', async () => {
      const order = rig.order('true')
      const message = Buffer.from(JSON.stringify({ message: 'Conflict. The name is already in use.' }))
      let creations = 0
      proxy.rule((line) =>
        line.includes('/containers/create') && creations++ < 2
          ? { kind: 'answer', status: 409, body: message }
          : undefined,
      )
      expect(await rig.runner.start(order)).toMatchObject({ status: 'started' })
      expect(creations).toBe(3)
    })

    it('is lost, where the engine cannot start the container any more that it was starting when it went away', async () => {
      const order = rig.order('cat')
      const message = Buffer.from(JSON.stringify({ message: 'task 0815: already exists' }))
      let starts = 0
      proxy.rule((line) => {
        if (!line.includes('/start')) return undefined
        return starts++ === 0 ? { kind: 'refuse' } : { kind: 'answer', status: 500, body: message }
      })
      await expect(rig.runner.start(order)).rejects.toMatchObject({ code: 'ENGINE_UNAVAILABLE' })
      expect(await rig.runner.start(order)).toMatchObject({ status: 'failed', code: 'START_LOST' })
      expect(await rig.containers()).toEqual([])
    })

    it('has started a worker that somebody removes at once', async () => {
      const order = rig.order('sleep 60')
      const message = Buffer.from(JSON.stringify({ message: 'No such container' }))
      let started = false
      proxy.rule((line) => {
        if (line.includes('/start')) started = true
        return started && line.includes('/json') ? { kind: 'answer', status: 404, body: message } : undefined
      })
      expect(await rig.runner.start(order)).toMatchObject({ status: 'started' })
    })

    it('fails in time where the engine never answers', async () => {
      proxy.rule((line) => (line.includes('/containers/create') ? { kind: 'swallow' } : undefined))
      const before = performance.now()
      await expect(rig.runner.start(rig.order('true'))).rejects.toMatchObject({ code: 'ENGINE_UNAVAILABLE' })
      expect(performance.now() - before).toBeLessThan(10_000)
    })

    it('adopts a worker whose image is gone', async () => {
      const order = await rig.start('sleep 60')
      const message = Buffer.from(JSON.stringify({ message: 'No such image: busybox:test' }))
      proxy.rule((line) =>
        line.includes('/containers/create') ? { kind: 'answer', status: 404, body: message } : undefined,
      )
      expect(await rig.runner.start(order)).toMatchObject({ status: 'started' })
      expect(await rig.containers()).toEqual([order.name])
    })

    it('fails where the engine keeps another log than asked for, and says so', async () => {
      const order = rig.order('true')
      const created = await rig.start('sleep 60')
      const info = await rig.docker.getContainer(created.name).inspect()
      info.HostConfig.AutoRemove = true
      info.HostConfig.LogConfig = { Type: 'journald', Config: {} }
      info.State.Status = 'created'
      info.Config.Labels['gpu-service.worker'] = order.workerId
      const body = Buffer.from(JSON.stringify(info))
      proxy.rule((line) =>
        line.includes(`/containers/${order.name}/json`) ? { kind: 'answer', body } : undefined,
      )
      const failed = await rig.startFailing(order)
      expect(failed).toMatchObject({ code: 'ENGINE_REFUSED' })
      expect(failed.message).toMatch(/driver journald, max-size "unset".*removed with its container/)
      expect(existsSync(join(rig.dataDir, 'workers', order.name))).toBe(false)
    })
  })

  it('tells a kill for want of memory of which the record says nothing, as that of an engine that heard of it after the end', async () => {
    const endOf = async (script: string) => {
      const limits = { ...rig.order('').spec.limits, memoryMb: 16 }
      const { name } = await rig.start(script, { limits })
      await rig.docker.getContainer(name).wait()
      const info = await rig.docker.getContainer(name).inspect()
      info.State.OOMKilled = false
      const body = Buffer.from(JSON.stringify(info))
      proxy.rule((line) =>
        [name, info.Id].some((each) => line.includes(`/containers/${each}/json`))
          ? { kind: 'answer', body }
          : undefined,
      )
      const { end } = await readOutput(rig.runner, name, { signal: new AbortController().signal })
      return end
    }
    expect(await endOf('head -c 64m /dev/zero | tail')).toMatchObject({ oomKilled: true, exitCode: 137 })
    expect(await endOf('exit 137')).toMatchObject({ oomKilled: false, exitCode: 137 })
  })

  describe('where it is asked for the processes of a worker', () => {
    const answered = (status: number, body: object) => {
      proxy.rule((line) =>
        line.includes('/top')
          ? { kind: 'answer', status, body: Buffer.from(JSON.stringify(body)) }
          : undefined,
      )
    }

    it('is an error where it is away', async () => {
      const { name } = await rig.start('sleep 60')
      expect(await rig.runner.processes(name)).not.toEqual([])
      proxy.rule((line) => (line.includes('/top') ? { kind: 'refuse' } : undefined))
      await expect(rig.runner.processes(name)).rejects.toMatchObject({
        name: 'RunnerError',
        code: 'ENGINE_UNAVAILABLE',
      })
    })

    it('is an error in time where it hangs', async () => {
      const { name } = await rig.start('sleep 60')
      proxy.rule((line) => (line.includes('/top') ? { kind: 'swallow' } : undefined))
      await expect(rig.runner.processes(name)).rejects.toMatchObject({ code: 'ENGINE_UNAVAILABLE' })
    })

    it.each([
      [500, { message: 'Error running ps: exec: "ps": executable file not found in $PATH' }],
      [200, []],
      [200, { Processes: 7 }],
      [200, { Processes: [7] }],
      [200, { Processes: [[]] }],
      [200, { Processes: [['1', 'sh'], ['one']] }],
      [200, { Processes: [['0']] }],
    ])('names none where it cannot tell them, and says so once: %i %j', async (status, body) => {
      const { name } = await rig.start('sleep 60')
      answered(status, body)
      expect(await rig.runner.processes(name)).toEqual([])
      expect(await rig.runner.processes(name)).toEqual([])
      expect(rig.warnings.map(({ message }) => message)).toEqual([
        'the engine does not tell the processes of its containers',
      ])
    })

    it('names none where there is no such worker, or where it has ended', async () => {
      const order = rig.order('true')
      expect(await rig.runner.processes(order.name)).toEqual([])
      await rig.runner.start(order)
      await readOutput(rig.runner, order.name, { signal: never })
      expect(await rig.runner.processes(order.name)).toEqual([])
      expect(rig.warnings).toEqual([])
    })
  })

  describe('at a pull', () => {
    const image = 'pulled-by-the-test:1'

    function answerPull(...lines: readonly string[]): void {
      const body = Buffer.from(lines.join('\r\n'))
      proxy.rule((line) => (line.includes('/images/create') ? { kind: 'answer', body } : undefined))
    }

    afterEach(async () => {
      await rig.docker
        .getImage(image)
        .remove({ force: true })
        .catch(() => undefined)
    })

    it.each([
      [
        'that ends with an error',
        ['{"status":"Pulling"}', '{"error":"manifest unknown"}'],
        /manifest unknown/,
      ],
      ['that breaks off', ['{"status":"Pulling"}', '{"stat'], /cannot be read/],
      ['whose progress is no JSON', ['<html>'], /cannot be read/],
      ['that ends well without the image', ['{"status":"Download complete"}'], /without it/],
    ])('%s says PULL_FAILED', async (_what, lines, message) => {
      answerPull(...lines)
      const order = rig.order('true', { image, pull: 'missing' })
      const failed = await rig.startFailing(order)
      expect(failed).toMatchObject({ code: 'PULL_FAILED' })
      expect(failed.message).toMatch(message)
      expect(existsSync(join(rig.dataDir, 'workers', order.name))).toBe(false)
    })

    it('is one for all workers that want the image, and starts them all', async () => {
      proxy.rule((line) => {
        if (!line.includes('/images/create')) return undefined
        const after = rig.docker.getImage('busybox:test').tag({ repo: 'pulled-by-the-test', tag: '1' })
        return { kind: 'answer', body: Buffer.from('{"status":"Pull complete"}\r\n'), after }
      })
      const orders = [1, 2, 3].map((number) => rig.order(`echo ${number}`, { image, pull: 'missing' }))
      const results = await Promise.all(orders.map((order) => rig.runner.start(order)))
      expect(results.map(({ status }) => status)).toEqual(['started', 'started', 'started'])
      expect(proxy.requests.filter((line) => line.includes('/images/create'))).toEqual([
        'POST /images/create?fromImage=pulled-by-the-test&tag=1 HTTP/1.1',
      ])
    })
  })

  describe('while a worker is read', () => {
    it('is waited for, and nothing is lost or repeated by 20 broken connections', async () => {
      const { name } = await rig.start('for i in $(seq 1 40); do seq 1 500; seq 1 50 >&2; sleep 0.1; done')
      let broken = 0
      const breaking = setInterval(() => {
        if (broken === 20) return
        proxy.breakAll()
        broken += 1
      }, 110)
      const { stdout, stderr, gaps, end } = await readOutput(rig.runner, name, { signal: never })
      clearInterval(breaking)
      expect(broken).toBe(20)
      expect(stdout.toString()).toBe(numbers(500).repeat(40))
      expect(stderr.toString()).toBe(numbers(50).repeat(40))
      expect(gaps).toEqual([])
      expect(end).toMatchObject({ exitCode: 0 })
    })

    it('neither loses nor repeats a part of a line that is longer than an answer', async () => {
      const { name } = await rig.start(
        "echo first; for i in $(seq 1 30); do head -c 40000 /dev/zero | tr '\\000' x; echo err >&2; sleep 0.05; done; echo; echo last",
      )
      const breaking = setInterval(() => {
        proxy.breakAll()
      }, 130)
      const { stdout, stderr, end } = await readOutput(rig.runner, name, { signal: never })
      clearInterval(breaking)
      expect(stdout.toString()).toBe(`first\n${'x'.repeat(30 * 40_000)}\nlast\n`)
      expect(stderr.toString()).toBe('err\n'.repeat(30))
      expect(end).toMatchObject({ exitCode: 0 })
    })

    it('is asked for more of the log, until the place where it stopped is in it', async () => {
      const { name, run } = await rig.start(
        'echo one; while [ ! -e "$OUTPUT_DIR/go" ]; do sleep 0.02; done; seq 1 25000 >&2; touch "$OUTPUT_DIR/done"; sleep 1; echo two',
      )
      const files = rig.runner.outputFolder(name, run?.runId ?? '').host
      let away = false
      proxy.rule(() => (away ? { kind: 'refuse' } : undefined))
      let [stdout, stderr] = ['', '']
      for await (const item of rig.runner.output(name, { after: OUTPUT_START, signal: never })) {
        if (item.kind !== 'data') continue
        if (item.stream === 'stdout') stdout += Buffer.from(item.bytes).toString()
        else stderr += Buffer.from(item.bytes).toString()
        if (stdout !== 'one\n' || stderr !== '') continue
        away = true
        proxy.breakAll()
        await writeFile(join(files, 'go'), '')
        await vi.waitFor(() => {
          expect(existsSync(join(files, 'done'))).toBe(true)
        }, 20_000)
        away = false
      }
      expect(stdout).toBe('one\ntwo\n')
      expect(stderr).toBe(numbers(25_000))
      const asked = proxy.requests
        .filter((line) => line.includes('/logs'))
        .map((line) => /tail=(\w+)/.exec(line)?.[1])
      expect(asked.slice(0, 4)).toEqual(['all', '1000', '20000', 'all'])
    })

    it.each(['echo word >&2; seq 1 5000', 'seq 1 5000', 'seq 1 5000; sleep 1.2; echo word >&2'])(
      'is asked by the next reader for the end of a long log only (%s)',
      async (lines) => {
        const { name, run } = await rig.start(
          `${lines}; while [ ! -e "$OUTPUT_DIR/go" ]; do sleep 0.02; done; echo more; sleep 1.2; echo more >&2`,
        )
        const files = rig.runner.outputFolder(name, run?.runId ?? '').host
        const isSaid = lines.includes('word')
        let after: OutputCursor = OUTPUT_START
        const leave = new AbortController()
        for await (const item of rig.runner.output(name, { after, signal: leave.signal })) {
          if (item.kind !== 'data') continue
          after = { ...after, [item.stream]: item.cursor }
          if (after.stdout.includes(',5000') && (!isSaid || after.stderr !== '')) leave.abort()
        }
        await writeFile(join(files, 'go'), '')
        const before = proxy.requests.length
        const { stdout, stderr, gaps } = await readOutput(rig.runner, name, { after, signal: never })
        expect([stdout.toString(), stderr.toString(), gaps]).toEqual(['more\n', 'more\n', []])
        const asked = proxy.requests.slice(before).filter((line) => line.includes('/logs'))
        expect(asked.map((line) => /tail=(\w+)/.exec(line)?.[1])).not.toContain('all')
      },
    )

    it('is noticed where it hangs, and the worker is read on when it answers again', async () => {
      const { name } = await rig.start('echo before; sleep 3; echo after')
      let hangs = false
      proxy.rule(() => (hangs ? { kind: 'swallow' } : undefined))
      const said: string[] = []
      for await (const item of rig.runner.output(name, { after: OUTPUT_START, signal: never })) {
        said.push(item.kind === 'data' ? Buffer.from(item.bytes).toString() : item.kind)
        if (said.length > 1) continue
        hangs = true
        proxy.breakAll()
        setTimeout(() => {
          hangs = false
        }, 2_000)
      }
      expect(said).toEqual(['before\n', 'after\n', 'end'])
    })

    it('lets a reader go that is called off while it hangs', async () => {
      const { name } = await rig.start('echo up; sleep 60')
      proxy.rule(() => ({ kind: 'swallow' }))
      const stop = new AbortController()
      const reading = readOutput(rig.runner, name, { signal: stop.signal })
      stop.abort()
      expect(await reading).toMatchObject({ marks: [], end: null })
    })

    it('does not keep a worker alive by a log that is followed without an end', async () => {
      const { name } = await rig.start('echo up; sleep 0.5; echo done; exit 3')
      proxy.rule((line) => (line.includes('follow=1') ? { kind: 'hold end' } : undefined))
      proxy.rule((line) => (line.includes('/wait') ? { kind: 'swallow' } : undefined))
      const { stdout, end } = await readOutput(rig.runner, name, { signal: never })
      expect(stdout.toString()).toBe('up\ndone\n')
      expect(end).toMatchObject({ exitCode: 3 })
    })

    it('does not end a worker by a log that ends too early', async () => {
      const { name } = await rig.start('seq 1 1000; sleep 1; seq 1001 2000')
      proxy.rule((line) =>
        line.includes('follow=1') ? { kind: 'answer', body: Buffer.alloc(0) } : undefined,
      )
      const { stdout, end } = await readOutput(rig.runner, name, { signal: never })
      expect(stdout.toString()).toBe(numbers(2_000))
      expect(end).toMatchObject({ exitCode: 0 })
    })

    it('ends a worker with a gap whose log cannot be read', async () => {
      const { name } = await rig.start('echo up')
      const body = Buffer.concat([Buffer.from([3, 0, 0, 0, 0, 0, 0, 9]), Buffer.from('no log: x')])
      proxy.rule((line) => (line.includes('/logs') ? { kind: 'answer', body } : undefined))
      const { gaps, end } = await readOutput(rig.runner, name, { signal: never })
      expect(gaps).toEqual([expect.stringMatching(/no log: x/)])
      expect(end).toMatchObject({ exitCode: 0 })
    })

    it('says that it may have missed the end of a worker that it was not seen to watch, where it was restarted since', async () => {
      const { name } = await rig.start('echo up; exit 0')
      await expect.poll(() => rig.runner.inspect(name)).toMatchObject({ phase: 'exited' })
      // Restarted, an engine has forgotten all that happened before.
      proxy.rule((line) => (line.includes('/events') ? { kind: 'answer', body: Buffer.alloc(0) } : undefined))
      const body = Buffer.from(JSON.stringify({ DockerRootDir: '/', LiveRestoreEnabled: true }))
      proxy.rule((line) => (line.includes('/info') ? { kind: 'answer', body } : undefined))
      const items: WorkerOutput[] = []
      for await (const item of rig.runner.output(name, { after: { stdout: '', stderr: '' }, signal: never }))
        items.push(item)
      expect(items.map(({ kind }) => kind)).toEqual(['data', 'gap', 'end'])
      expect(items.at(-1)).toMatchObject({
        cause: expect.stringMatching(/ended while the Docker engine was not there/) as string,
      })
    })

    it('says what is gone where a log was rotated', async () => {
      const { name } = await rig.start('true')
      const body = entry(1, '2026-01-01T00:00:09.000000001Z', 'nine\n')
      proxy.rule((line) => (line.includes('/logs') ? { kind: 'answer', body } : undefined))
      const after = {
        stdout: '2026-01-01T00:00:05.000000001Z,1,5',
        stderr: '2026-01-01T00:00:05.000000001Z,2,2',
      }
      const { gaps, stdout } = await readOutput(rig.runner, name, { after, signal: never })
      expect(stdout.toString()).toBe('nine\n')
      expect(gaps).toEqual([expect.stringMatching(/stdout/), expect.stringMatching(/stderr/)])
    })

    it('keeps its place where the clock of the host is set back', async () => {
      const { name } = await rig.start('true')
      const log = [
        entry(1, '2026-01-01T00:00:05.000000001Z', '1\n'),
        entry(1, '2026-01-01T00:00:06.000000001Z', '2\n'),
        entry(1, '2026-01-01T00:00:02.000000001Z', '3\n'),
        entry(1, '2026-01-01T00:00:03.000000001Z', '4\n'),
        entry(1, '2026-01-01T00:00:06.000000001Z', '5\n'),
      ]
      proxy.rule((line) =>
        line.includes('/logs') ? { kind: 'answer', body: Buffer.concat(log) } : undefined,
      )
      const whole = await readOutput(rig.runner, name, { signal: never })
      expect(whole.stdout.toString()).toBe('1\n2\n3\n4\n5\n')
      for (const [index, { cursor }] of whole.marks.entries()) {
        const { stdout } = await readOutput(rig.runner, name, {
          after: { stdout: cursor, stderr: '' },
          signal: never,
        })
        expect(stdout.toString()).toBe(['2\n3\n4\n5\n', '3\n4\n5\n', '4\n5\n', '5\n', ''][index])
      }
    })
  })
})

/** An entry of a log as the engine sends it. */
function entry(kind: 1 | 2, stamp: string, line: string): Buffer {
  const content = Buffer.from(`${stamp} ${line}`)
  const header = Buffer.alloc(8)
  header[0] = kind
  header.writeUInt32BE(content.length, 4)
  return Buffer.concat([header, content])
}

function numbers(last: number): string {
  return Array.from({ length: last }, (_, index) => `${index + 1}\n`).join('')
}
