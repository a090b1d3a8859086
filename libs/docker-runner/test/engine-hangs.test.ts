import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { OUTPUT_START } from '@gpu-service/tasks'
import { readOutput } from '@gpu-service/tasks/testing'
import { type DockerRig, openProxiedRig, type ProxiedRig } from './rig.ts'

const CALL_TIMEOUT_MS = 700

describe('an engine that hangs on one kind of call', { timeout: 60_000 }, () => {
  let proxied: ProxiedRig
  let rig: DockerRig
  let hanging: RegExp | null
  const never = new AbortController().signal

  beforeEach(async () => {
    proxied = await openProxiedRig({ callTimeoutMs: CALL_TIMEOUT_MS, pollMs: 200 })
    rig = proxied.rig
    hanging = null
    proxied.proxy.rule((line) => (hanging?.test(line) === true ? { kind: 'swallow' } : undefined))
  })

  afterEach(async () => {
    hanging = null
    await proxied[Symbol.asyncDispose]()
    expect(await rig.containers()).toEqual([])
  })

  const CREATE = /^POST \/containers\/create/
  const START = /^POST \/containers\/\w+\/start/
  const INSPECT = /^GET \/containers\/[^/]+\/json/
  const LIST = /^GET \/containers\/json/
  const ATTACH = /^POST \/containers\/\w+\/attach/
  const STOP = /^POST \/containers\/\w+\/stop/
  const KILL = /^POST \/containers\/\w+\/kill/
  const REMOVE = /^DELETE /
  const TOP = /^GET \/containers\/\w+\/top/
  const LOGS = /^GET \/containers\/\w+\/logs/
  const WAIT = /^POST \/containers\/\w+\/wait/
  const EVENTS = /^GET \/events/
  const INFO = /^GET \/info/

  it.each([
    ['create', CREATE],
    ['inspect', INSPECT],
    ['attach', ATTACH],
    ['start', START],
  ])('%s: a start fails in time, and the next call finds or makes the one worker', async (_name, pattern) => {
    const order = rig.order('cat; echo done')
    hanging = pattern
    await expect(rig.runner.start(order)).rejects.toMatchObject({ code: 'ENGINE_UNAVAILABLE' })
    expect(await rig.runner.health()).toMatchObject({ ok: false })
    hanging = null
    expect(await rig.runner.start(order)).toMatchObject({ status: 'started' })
    expect(await rig.containers()).toEqual([order.name])
    const { stdout } = await readOutput(rig.runner, order.name, { signal: never })
    expect(stdout.toString()).toMatch(/done/)
  })

  it.each([
    ['inspect', INSPECT, (name) => rig.runner.inspect(name)],
    ['inspect', INSPECT, (name) => rig.runner.stop(name, { graceMs: 0 })],
    ['inspect', INSPECT, (name) => rig.runner.openInput(name)],
    ['attach', ATTACH, (name) => rig.runner.openInput(name)],
    ['kill', /\/(stop|kill)/, (name) => rig.runner.stop(name, { graceMs: 0 })],
    ['remove', REMOVE, (name) => rig.runner.remove(name)],
    ['top', TOP, (name) => rig.runner.processes(name)],
    ['list', LIST, () => rig.runner.list()],
  ] satisfies [string, RegExp, (name: ReturnType<DockerRig['order']>['name']) => Promise<unknown>][])(
    '%s: what needs it fails in time, is told by the health, and works afterwards',
    async (_name, pattern, act) => {
      const { name } = await rig.start('while :; do sleep 0.05; done', {}, { mode: 'SESSION' })
      hanging = pattern
      const before = performance.now()
      await expect(act(name)).rejects.toMatchObject({ name: 'RunnerError', code: 'ENGINE_UNAVAILABLE' })
      expect(performance.now() - before).toBeLessThan(6 * CALL_TIMEOUT_MS)
      expect(await rig.runner.health()).toMatchObject({
        ok: false,
        detail: expect.stringMatching(/gave no answer/) as string,
      })
      hanging = null
      await act(name)
    },
  )

  it('stop: the worker is killed', async () => {
    const { name } = await rig.start("trap '' TERM; while :; do sleep 0.05; done")
    hanging = STOP
    await rig.runner.stop(name, { graceMs: 0 })
    expect(await rig.runner.inspect(name)).toMatchObject({ phase: 'exited', exit: { exitCode: 137 } })
  })

  it('kill: the worker is stopped', async () => {
    const { name } = await rig.start('while :; do sleep 0.05; done')
    hanging = KILL
    await rig.runner.stop(name, { graceMs: 1_000 })
    expect(await rig.runner.inspect(name)).toMatchObject({ phase: 'exited' })
  })

  it.each([
    ['inspect', INSPECT],
    ['logs', LOGS],
    ['wait', WAIT],
    ['events', EVENTS],
    ['info', INFO],
  ])('%s: the output of a worker is whole when it goes on', async (_name, pattern) => {
    const { name } = await rig.start('echo up; sleep 1; echo done; kill -KILL $$')
    let said = ''
    for await (const item of rig.runner.output(name, { after: OUTPUT_START, signal: never })) {
      if (item.kind === 'data') said += Buffer.from(item.bytes).toString()
      // That connections broke off may be told; it is nothing of the worker's.
      else if (item.kind !== 'notice') said += `${item.kind}\n`
      if (said !== 'up\n') continue
      hanging = pattern
      proxied.proxy.breakAll()
      setTimeout(() => {
        hanging = null
      }, 2_500)
    }
    expect(said).toBe('up\ndone\nend\n')
  })

  it('ping: the health says so within seconds, and that it is well when it is', async () => {
    expect(await rig.runner.health()).toMatchObject({ ok: true })
    hanging = /^GET \/_ping/
    expect(await rig.runner.health()).toMatchObject({ ok: false })
    hanging = null
    await vi.waitFor(async () => {
      expect(await rig.runner.health()).toMatchObject({ ok: true })
    })
  })
})
