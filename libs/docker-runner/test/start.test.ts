import { existsSync } from 'node:fs'
import { chmod, mkdir, readdir, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import type { GpuId, PresetId, WorkerOrder } from '@gpu-service/tasks'
import { readOutput } from '@gpu-service/tasks/testing'
import { type DockerRig, IMAGE, openRig } from './rig.ts'

describe('starting a worker on Docker', { timeout: 60_000 }, () => {
  let rig: DockerRig
  let networks: string[]

  beforeEach(async () => {
    rig = await openRig()
    networks = (await rig.docker.listNetworks()).map(({ Name }) => Name).sort()
  })

  afterEach(async () => {
    const after = (await rig.docker.listNetworks()).map(({ Name }) => Name).sort()
    await rig[Symbol.asyncDispose]()
    expect(after).toEqual(networks)
    expect(await rig.containers()).toEqual([])
  })

  async function say(order: WorkerOrder): Promise<string> {
    expect(await rig.runner.start(order)).toMatchObject({ status: 'started' })
    const { stdout, stderr } = await readOutput(rig.runner, order.name, {
      signal: new AbortController().signal,
    })
    expect(stderr.toString()).toBe('')
    return stdout.toString()
  }

  async function expectNothingLeft(order: WorkerOrder): Promise<void> {
    expect(await rig.containers()).toEqual([])
    expect(existsSync(join(rig.dataDir, 'workers', order.name))).toBe(false)
  }

  const REFUSALS: readonly [string, string, RegExp, (rig: DockerRig) => WorkerOrder][] = [
    [
      'a missing image',
      'IMAGE_NOT_FOUND',
      /no-such-image:1/,
      (r) => r.order('', { image: 'no-such-image:1' }),
    ],
    [
      'an image that cannot be pulled',
      'PULL_FAILED',
      /127\.0\.0\.1:1\/none/,
      (r) => r.order('', { image: '127.0.0.1:1/none:1', pull: 'missing' }),
    ],
    ['a missing file', 'COMMAND_NOT_FOUND', /\/no\/such/, (r) => r.order('', { command: ['/no/such'] })],
    [
      'a name that is nowhere on the PATH',
      'COMMAND_NOT_FOUND',
      /nowhere/,
      (r) => r.order('', { command: ['nowhere'] }),
    ],
    ['a folder', 'COMMAND_NOT_FOUND', /not an executable/, (r) => r.order('', { command: ['/bin'] })],
    [
      'a file that is not executable',
      'COMMAND_NOT_FOUND',
      /not an executable/,
      (r) => r.order('', { command: ['/task/input.json'] }),
    ],
    [
      'a GPU on an engine that has no GPU runtime',
      'GPU_UNAVAILABLE',
      /could not select device driver/,
      (r) => ({
        ...r.order('true'),
        gpus: [{ id: 'GPU-00000000-0000-0000-0000-000000000001' as GpuId, index: 0, simulated: false }],
      }),
    ],
    [
      'limits that the engine refuses',
      'ENGINE_REFUSED',
      /memory limit/i,
      (r) => r.order('true', { limits: { ...r.order('').spec.limits, memoryMb: 1 } }),
    ],
    [
      'a volume whose source is not there',
      'ENGINE_REFUSED',
      /does not exist/,
      (r) => r.order('true', { volumes: [{ source: '/no/such/folder', target: '/x', readOnly: true }] }),
    ],
    [
      'an environment that no program starts with',
      'ENGINE_REFUSED',
      /env_vars/,
      (r) => r.order('true', { env: { A: 'x'.repeat(60_000), B: 'x'.repeat(60_000) } }),
    ],
  ]

  it.each(REFUSALS)('refuses %s with %s and leaves nothing behind', async (_what, code, message, orderOf) => {
    const order = orderOf(rig)
    const failed = await rig.startFailing(order)
    expect(failed).toMatchObject({ code })
    expect(failed.message).toMatch(message)
    expect(failed.hint).not.toBe('')
    await expectNothingLeft(order)
  })

  it('says where a missing image comes from', async () => {
    const { hint } = await rig.startFailing(rig.order('', { image: 'no-such-image:1' }))
    expect(hint).toMatch(/build\.sh.*docker load.*pull: missing/)
  })

  it('says ENGINE_UNAVAILABLE where there is no engine, and leaves nothing behind', async () => {
    await using alone = await openRig({ docker: { dockerHost: 'unix:///no/such/docker.sock' } })
    const order = alone.order('true')
    expect(await alone.startFailing(order)).toMatchObject({ code: 'ENGINE_UNAVAILABLE' })
    expect(existsSync(join(alone.dataDir, 'workers', order.name))).toBe(false)
    await expect(alone.runner.inspect(order.name)).rejects.toMatchObject({ code: 'ENGINE_UNAVAILABLE' })
    await expect(alone.runner.list()).rejects.toMatchObject({ code: 'ENGINE_UNAVAILABLE' })
  })

  it('finds a program by its bare name, through a link, and by the working folder of the image', async () => {
    expect(await say(rig.order('', { command: ['echo', 'by name'] }))).toBe('by name\n')
    expect(await say(rig.order('', { command: ['bin/echo', 'by folder'] }))).toBe('by folder\n')
  })

  it('tells the digest of the image', async () => {
    const started = await rig.runner.start(rig.order('true'))
    const { Id } = await rig.docker.getImage('busybox:test').inspect()
    expect(started).toMatchObject({ status: 'started', imageDigest: Id })
  })

  it('makes no second container for a worker whose first one somebody has removed, and has it lost', async () => {
    const order = rig.order('echo up; sleep 60')
    const first = await rig.runner.start(order)
    await rig.docker.getContainer(order.name).remove({ force: true })
    // As an earlier process would, that was killed before it had stored that the worker runs.
    const runner = await rig.reopen()
    const again = await runner.start(order)
    expect(again).toMatchObject({
      status: 'started',
      containerId: first.status === 'started' && first.containerId,
    })
    expect(await rig.containers()).toEqual([])
    const kinds: string[] = []
    for await (const { kind } of runner.output(order.name, {
      after: { stdout: '', stderr: '' },
      signal: AbortSignal.timeout(10_000),
    }))
      kinds.push(kind)
    expect(kinds).toEqual(['lost'])
    await runner.remove(order.name)
    expect(await runner.list()).toEqual([])
  })

  it('relaxes what the preset relaxes', async () => {
    const said = await say(
      rig.order(
        'id -u; grep CapBnd /proc/self/status | cut -f2; touch /here "$HOME/x" "$OUTPUT_DIR/x" && echo writes',
        {
          relax: { user: '0:0', writableRoot: true, capabilities: ['NET_BIND_SERVICE', 'DAC_OVERRIDE'] },
        },
      ),
    )
    expect(said).toBe('0\n0000000000000402\nwrites\n')
  })

  it('mounts the volumes of the preset', async () => {
    const folder = join(rig.dataDir, 'volume')
    await mkdir(folder, { recursive: true })
    await writeFile(join(folder, 'file'), 'from the host\n')
    await chmod(folder, 0o777)
    const said = await say(
      rig.order(
        'cat /in/file; touch /in/x 2>/dev/null || echo "read-only"; touch /out/y && echo "writable"',
        {
          volumes: [
            { source: folder, target: '/in', readOnly: true },
            { source: folder, target: '/out', readOnly: false },
          ],
        },
      ),
    )
    expect(said).toBe('from the host\nread-only\nwritable\n')
    expect((await readdir(folder)).sort()).toEqual(['file', 'y'])
  })

  it('keeps the cache of a preset from worker to worker, apart from other presets', async () => {
    await say(rig.order('echo kept > "$XDG_CACHE_HOME/file"'))
    expect(await say(rig.order('cat "$XDG_CACHE_HOME/file"'))).toBe('kept\n')
    const other = rig.order('ls "$XDG_CACHE_HOME"')
    expect(
      await say({ ...other, spec: { ...other.spec, presetId: 'test/script-inference' as PresetId } }),
    ).toBe('')
  })

  it("lets nobody but the service's user at the files of workers", async () => {
    await rig.start('true')
    for (const folder of ['workers', 'cache'])
      expect((await stat(join(rig.dataDir, folder))).mode & 0o777).toBe(0o700)
  })

  it('names a simulated GPU and asks the engine for none', async () => {
    const order = {
      ...rig.order('echo "$GPU_DEVICE $NVIDIA_VISIBLE_DEVICES"'),
      gpus: [{ id: 'GPU-sim' as GpuId, index: 2, simulated: true }],
    }
    expect(await say(order)).toBe('2 void\n')
    expect((await rig.docker.getContainer(order.name).inspect()).HostConfig.DeviceRequests).toBeNull()
  })

  it('says that a worker was killed for memory', async () => {
    const order = await rig.start('head -c 64m /dev/zero | tail', {
      limits: { ...rig.order('').spec.limits, memoryMb: 16 },
    })
    const { end } = await readOutput(rig.runner, order.name, { signal: new AbortController().signal })
    expect(end).toMatchObject({ oomKilled: true, exitCode: 137 })
  })

  it('stops a worker that does not read its large stdin, and is not held up by it', async () => {
    const order = rig.order(
      'echo up; sleep 60',
      {},
      { input: { text: 'x'.repeat(8 * 1024 * 1024) }, files: [], previous: [] },
    )
    const before = performance.now()
    expect(await rig.runner.start(order)).toMatchObject({ status: 'started' })
    await rig.runner.stop(order.name, { graceMs: 5_000 })
    expect(await rig.runner.inspect(order.name)).toMatchObject({ phase: 'exited', exit: { exitCode: 143 } })
    expect(performance.now() - before).toBeLessThan(5_000)
  })

  it('refuses a command that a session worker does not take in time', async () => {
    await using quick = await openRig({ callTimeoutMs: 2_000 })
    const order = await quick.start('sleep 60', {}, { mode: 'SESSION' })
    const input = await quick.runner.openInput(order.name)
    const run = {
      runId: 'task.1',
      attempt: 1,
      input: { text: 'x'.repeat(8 * 1024 * 1024) },
      files: [],
      previous: [],
    }
    await expect(input.run(run)).rejects.toMatchObject({ name: 'RunnerError', code: 'ENGINE_REFUSED' })
    await expect(input.cancel('task.1')).rejects.toMatchObject({
      name: 'RunnerError',
      code: 'INPUT_CLOSED',
    })
    await quick.runner.stop(order.name, { graceMs: 1_000 })
  })

  it('opens no stdin of a worker that has ended', async () => {
    const order = await rig.start('true', {}, { mode: 'SESSION' })
    await readOutput(rig.runner, order.name, { signal: new AbortController().signal })
    await expect(rig.runner.openInput(order.name)).rejects.toMatchObject({ code: 'NOT_FOUND' })
  })

  it('stops a paused worker', async () => {
    const order = await rig.start('echo up; sleep 60')
    await rig.docker.getContainer(order.name).pause()
    await rig.runner.stop(order.name, { graceMs: 1_000 })
    expect(await rig.runner.inspect(order.name)).toMatchObject({ phase: 'exited' })
  })

  it('lists a worker of which only files are left, and removes them', async () => {
    const { name } = rig.order('true')
    const folder = join(rig.dataDir, 'workers', name)
    await mkdir(folder, { recursive: true })
    expect(await rig.runner.list()).toContainEqual({ name, state: { phase: 'unknown' } })
    await rig.runner.remove(name)
    expect(existsSync(folder)).toBe(false)
    expect(await rig.runner.list()).not.toContainEqual({ name, state: { phase: 'unknown' } })
  })

  it('leaves a container of the name of a worker alone that is not of its installation', async () => {
    const { name } = rig.order('true')
    const foreign = await rig.docker.createContainer({ name, Image: IMAGE, Cmd: ['true'] })
    try {
      expect(await rig.runner.list()).not.toContainEqual(expect.objectContaining({ name }))
      await rig.runner.remove(name)
      expect((await foreign.inspect()).State.Status).toBe('created')
    } finally {
      await foreign.remove({ force: true })
    }
  })

  it('names the workers of another installation once, with the command that removes them', async () => {
    const { name } = await rig.start('sleep 60')
    const stranger = await rig.stranger()
    await stranger.list()
    await stranger.list()
    const told = rig.warnings.filter(({ message }) => message.includes('another installation'))
    const ours = told.filter(({ message }) =>
      message.includes(`gpu-service.installation=${rig.installation})`),
    )
    expect(ours).toMatchObject([{ fields: { containers: [name] } }])
    expect(ours[0]?.message).toContain('docker rm -f')
  })
})
