import { SESSION_WORKER_IMAGE, testEngine } from '@gpu-service/test-engine'
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest'
import { FAKE_GPU, makeFakeNvidiaSmi, type FakeNvidiaSmi } from './fake-nvidia-smi.ts'
import { CONNECTED, FINISHED, noDocker, script } from './scripts.ts'
import {
  faultsOf,
  GPU_FIELDS,
  TestService,
  WORKER_FIELDS,
  type SeenGpu,
  type SeenHistory,
  type SeenWorker,
  type TestServiceOptions,
} from './service.ts'
import { ENDLESS, session } from './sessions.ts'

/** Long enough for what is seen only with the next samples of the meters. */
const SAMPLES = { timeout: 45_000, interval: 200 }

interface GpuAnswer {
  readonly __typename: string
  readonly gpu?: SeenGpu
  readonly code?: string
}

const GPU_ANSWER = `{ __typename ... on GpuSuccess { gpu { ${GPU_FIELDS} } } ... on Problem { message } }`

async function drain(service: TestService, id: string, reason?: string): Promise<GpuAnswer> {
  const { drainGpu } = await service.query<{ drainGpu: GpuAnswer }>(
    `mutation ($id: ID!, $reason: String) { drainGpu(id: $id, reason: $reason) ${GPU_ANSWER} }`,
    { id, reason },
  )
  return drainGpu
}

async function enable(service: TestService, id: string): Promise<GpuAnswer> {
  const { enableGpu } = await service.query<{ enableGpu: GpuAnswer }>(
    `mutation ($id: ID!) { enableGpu(id: $id) ${GPU_ANSWER} }`,
    { id },
  )
  return enableGpu
}

interface Simulation {
  readonly foreignMemoryMb?: number
  readonly fault?: 'HUNG_TELEMETRY' | 'LOST' | 'ECC_ERROR'
  readonly clearFault?: boolean
  readonly releaseMs?: number
}

async function simulate(service: TestService, id: string, change: Simulation): Promise<GpuAnswer> {
  const { simulateGpu } = await service.query<{ simulateGpu: GpuAnswer }>(
    `mutation ($id: ID!, $foreignMemoryMb: Int, $fault: SimulatedGpuFault, $clearFault: Boolean, $releaseMs: Int) {
      simulateGpu(id: $id, foreignMemoryMb: $foreignMemoryMb, fault: $fault, clearFault: $clearFault, releaseMs: $releaseMs) {
        __typename ... on GpuSuccess { gpu { ${GPU_FIELDS} } } ... on RefusedProblem { code } } }`,
    { id, ...change },
  )
  return simulateGpu
}

/** A session that claims memory on a GPU that others may use too, and uses as much. */
const sharing = (memoryMb: number, more: Readonly<Record<string, unknown>> = {}): Record<string, unknown> =>
  session(
    { gpus: { count: 1, share: 'shared', memory_mb: memoryMb }, session: { min_residency: '0s' }, ...more },
    { GPU_MEMORY_MB: String(memoryMb) },
  )

const LONG = script(`${CONNECTED}; sleep 600`, { gpus: { count: 1 }, retry: { on: [] } })
const SHORT = script(`${CONNECTED}; ${FINISHED}`, { gpus: { count: 1 } })

async function startSimulated(gpus: string, presets: TestServiceOptions['presets']): Promise<TestService> {
  await testEngine()?.ensureImage(SESSION_WORKER_IMAGE)
  return TestService.start({ runner: 'docker', env: { GPUS: `simulated:${gpus}` }, presets })
}

async function endSessions(service: TestService): Promise<void> {
  for (const { id } of await service.workers()) {
    await service.query('mutation ($id: ID!) { endSession(id: $id) { __typename } }', { id })
  }
}

async function untilGpu(service: TestService, index: number, holds: Partial<SeenGpu>): Promise<SeenGpu> {
  return vi.waitFor(async () => {
    const gpu = await service.gpu(index)
    expect(gpu).toMatchObject(holds)
    return gpu
  }, SAMPLES)
}

async function cancelAll(service: TestService): Promise<void> {
  const { tasks } = await service.query<{ tasks: { edges: { node: { id: string } }[] } }>(
    '{ tasks(first: 100, filter: { status: [QUEUED, STARTING, RUNNING] }) { edges { node { id } } } }',
  )
  for (const { node } of tasks.edges) await service.cancel(node.id)
  for (const { node } of tasks.edges) await service.ended(node.id)
}

describe.skipIf(noDocker)('GPUs that are shared by memory', () => {
  let service: TestService
  beforeAll(async () => {
    service = await startSimulated('1x8192', {
      a: sharing(4_000),
      b: sharing(4_000),
      large: sharing(6_000),
      whole: LONG,
    })
  })
  afterEach(async () => {
    await cancelAll(service)
    await simulate(service, (await service.gpu()).id, { foreignMemoryMb: 0, releaseMs: 0 })
  })
  afterAll(() => service[Symbol.asyncDispose]())

  const ended = async (kind: string): Promise<void> => {
    await vi.waitFor(async () => {
      expect(await service.workers(kind)).toEqual([])
    }, SAMPLES)
  }

  test('keep two presets warm that fit together, however often they alternate', async () => {
    const workers = new Set<string>()
    for (const kind of ['a', 'b', 'a', 'b', 'a', 'b']) {
      const task = await service.run(kind)
      expect(task.status).toBe('COMPLETED')
      workers.add(`${kind} ${task.attempts[0]?.workerId ?? ''}`)
    }
    expect(workers.size).toBe(2)
    const gpu = await untilGpu(service, 0, { memoryUsedMb: 8_000 })
    expect(gpu).toMatchObject({
      memoryClaimedMb: 8_000,
      memoryFreeMb: 192,
      foreignMemoryMb: 0,
      status: 'BUSY',
    })
    expect((await service.workers('a'))[0]).toMatchObject({ memoryClaimedMb: 4_000, peakMemoryMb: 4_000 })
  })

  test('swap two presets that do not fit together, once for each change, and soon', async () => {
    await endSessions(service)
    await untilGpu(service, 0, { memoryUsedMb: 0, memoryClaimedMb: 0 })
    const kinds = ['large', 'a', 'a', 'large', 'large', 'a']
    const tasks: SeenHistory[] = []
    for (const kind of kinds) tasks.push(await service.run(kind))
    expect(tasks.map(({ status, attempts }) => ({ status, warm: attempts[0]?.warm }))).toEqual(
      kinds.map((kind, at) => ({ status: 'COMPLETED', warm: kind === kinds[at - 1] })),
    )
    expect(new Set(tasks.map(({ attempts }) => attempts[0]?.workerId)).size).toBe(4)
    // The other worker's end, its memory, and a load of 0.1 s.
    for (const { createdAt, runningAt } of tasks)
      expect(Date.parse(runningAt ?? '') - Date.parse(createdAt)).toBeLessThan(6_000)
    expect(await service.gpu()).toMatchObject({ memoryClaimedMb: 4_000 })
  })

  test('never end a session that works: the other preset’s task waits, and says for what', async () => {
    const busy = await service.submit('large', { input: ENDLESS })
    await service.reached(busy, 'RUNNING')
    const waiting = await service.submit('a')
    const { explanation, queuePosition, status } = await service.task(waiting)
    expect({ status, queuePosition }).toEqual({ status: 'QUEUED', queuePosition: 1 })
    expect(explanation).toMatch(/2,192 of 8,192 MB/)
    expect(await service.task(busy)).toMatchObject({ status: 'RUNNING', attempt: 1 })
    await service.cancel(busy)
    expect(await service.ended(waiting)).toMatchObject({ status: 'COMPLETED' })
    expect((await service.history(busy)).killed).toBe(false)
  })

  test('do not start the next worker before the last one’s memory is back', async () => {
    await service.run('large')
    await ended('a')
    const gpu = await service.gpu()
    await simulate(service, gpu.id, { releaseMs: 2_500 })
    try {
      const { createdAt, attempts, status } = await service.run('a')
      expect(status).toBe('COMPLETED')
      expect(Date.parse(attempts[0]?.startedAt ?? '') - Date.parse(createdAt)).toBeGreaterThanOrEqual(2_400)
    } finally {
      await simulate(service, gpu.id, { releaseMs: 0 })
    }
  })

  test('let foreign load keep a task waiting, with the numbers, until it has gone', async () => {
    await endSessions(service)
    await untilGpu(service, 0, { memoryUsedMb: 0, memoryClaimedMb: 0 })
    const { id } = await service.gpu()
    expect(await simulate(service, id, { foreignMemoryMb: 5_000 })).toMatchObject({
      __typename: 'GpuSuccess',
    })
    await untilGpu(service, 0, { foreignMemoryMb: 5_000 })
    const waiting = await service.submit('a')
    const { explanation, status } = await service.task(waiting)
    expect(status).toBe('QUEUED')
    expect(explanation).toMatch(/3,192 of 8,192 MB/)
    expect((await service.gpu()).explanation).toMatch(/5,000/)
    await simulate(service, id, { foreignMemoryMb: 0 })
    expect(await service.ended(waiting)).toMatchObject({ status: 'COMPLETED' })
  })

  test('are taken as a whole by a preset that does not share', async () => {
    await endSessions(service)
    const whole = await service.submit('whole')
    await service.reached(whole, 'RUNNING')
    expect(await service.gpu()).toMatchObject({ memoryClaimedMb: 8_192, memoryFreeMb: 0, status: 'BUSY' })
    const waiting = await service.submit('a')
    expect((await service.task(waiting)).status).toBe('QUEUED')
    await service.cancel(whole)
    expect(await service.ended(waiting)).toMatchObject({ status: 'COMPLETED' })
    const { gpuFreeAt, stoppedAt } = await service.history(whole)
    expect(Date.parse(gpuFreeAt ?? '')).toBeGreaterThanOrEqual(Date.parse(stoppedAt ?? ''))
  })
})

describe.skipIf(noDocker)('GPUs that go out of use', () => {
  let service: TestService
  beforeAll(async () => {
    service = await startSimulated('2x8192', {
      long: LONG,
      short: SHORT,
      named: script(`${CONNECTED}; ${FINISHED}`, { gpus: { count: 1, names: ['simulated'] } }),
      other: script(`${CONNECTED}; ${FINISHED}`, { gpus: { count: 1, names: ['H100'] } }),
      patient: script(`case "$TASK_ID" in *.1) ${CONNECTED}; sleep 600;; esac; ${CONNECTED}; ${FINISHED}`, {
        gpus: { count: 1 },
        retry: { on: ['gpu_lost'], backoff: '0s' },
      }),
    })
  })
  afterEach(async () => {
    await cancelAll(service)
    for (const { id } of await service.gpus()) {
      await simulate(service, id, { clearFault: true, foreignMemoryMb: 0 })
      await enable(service, id)
    }
    await untilGpu(service, 0, { status: 'AVAILABLE', stale: false })
    await untilGpu(service, 1, { status: 'AVAILABLE', stale: false })
  })
  afterAll(() => service[Symbol.asyncDispose]())

  test('finish what they have and take nothing new while they are drained, across a restart', async () => {
    const running = await service.submit('long')
    await service.reached(running, 'RUNNING')
    const [taken] = (await service.task(running)).gpuIds
    const other = (await service.gpus()).find(({ id }) => id !== taken)
    expect(await drain(service, taken ?? '', 'it is to be replaced')).toMatchObject({
      gpu: { drained: true, status: 'DRAINING', explanation: expect.stringContaining('replaced') as string },
    })
    expect((await service.run('short')).gpuIds).toEqual([other?.id])
    await drain(service, other?.id ?? '')
    const waiting = await service.submit('short')
    await service.down('SIGTERM')
    await service.up()
    expect(await service.task(waiting)).toMatchObject({
      status: 'QUEUED',
      explanation: expect.stringMatching(/drain/i) as string,
    })
    expect(await service.task(running)).toMatchObject({ status: 'RUNNING' })
    expect(await enable(service, other?.id ?? '')).toMatchObject({ gpu: { drained: false } })
    expect(await service.ended(waiting)).toMatchObject({ status: 'COMPLETED', gpuIds: [other?.id] })
  })

  test('are unknown under another id', async () => {
    expect(await drain(service, 'GPU-of-somebody-else')).toMatchObject({ __typename: 'UnknownGpuProblem' })
    expect(await enable(service, 'GPU-of-somebody-else')).toMatchObject({ __typename: 'UnknownGpuProblem' })
    expect(await simulate(service, 'GPU-of-somebody-else', {})).toMatchObject({
      __typename: 'UnknownGpuProblem',
    })
  })

  test('fail their task with GPU_LOST when they are lost, and serve again when they are back', async () => {
    const [first, second] = await service.gpus()
    await drain(service, second?.id ?? '')
    const running = await service.submit('long')
    await service.reached(running, 'RUNNING')
    await simulate(service, first?.id ?? '', { fault: 'LOST' })
    expect(await service.ended(running)).toMatchObject({ status: 'FAILED', error: { code: 'GPU_LOST' } })
    expect(faultsOf(await service.events(running))).toEqual([])
    expect((await service.history(running)).attempts).toMatchObject([{ failureClass: 'GPU_LOST' }])
    expect(await service.gpu(0)).toMatchObject({ status: 'LOST', health: 'LOST' })
    const waiting = await service.submit('short')
    expect((await service.task(waiting)).status).toBe('QUEUED')
    await simulate(service, first?.id ?? '', { clearFault: true })
    expect(await service.ended(waiting)).toMatchObject({ status: 'COMPLETED', gpuIds: [first?.id] })
  })

  test('leave a task that may be tried again to another one', async () => {
    const id = await service.submit('patient')
    await service.reached(id, 'RUNNING')
    const [taken] = (await service.task(id)).gpuIds
    await simulate(service, taken ?? '', { fault: 'LOST' })
    expect(await service.ended(id)).toMatchObject({ status: 'COMPLETED', attempt: 2 })
    const { attempts } = await service.history(id)
    expect(attempts).toMatchObject([{ error: { code: 'GPU_LOST' }, gpuIds: [taken] }, { error: null }])
    expect(attempts[1]?.gpuIds).not.toEqual([taken])
  })

  test('are stale, and still used, while their meters hang', async () => {
    for (const { id } of await service.gpus()) await simulate(service, id, { fault: 'HUNG_TELEMETRY' })
    await untilGpu(service, 0, { stale: true, health: 'OK' })
    expect(await service.run('short')).toMatchObject({ status: 'COMPLETED' })
  })

  test('are kept out of use after a fault that asks for a reset, until an operator enables them', async () => {
    const [first] = await service.gpus()
    await simulate(service, first?.id ?? '', { fault: 'ECC_ERROR' })
    expect((await untilGpu(service, 0, { status: 'QUARANTINED' })).problem).toMatch(/ECC/)
    expect((await service.run('short')).gpuIds).not.toContain(first?.id)
    await simulate(service, first?.id ?? '', { clearFault: true })
    expect(await enable(service, first?.id ?? '')).toMatchObject({
      gpu: { status: 'AVAILABLE', problem: null },
    })
  })

  test('are chosen by a part of their name, and by what the task allows', async () => {
    const second = await service.gpu(1)
    expect((await service.run('named', { gpuIds: [second.id] })).gpuIds).toEqual([second.id])
    await expect(service.submit('other')).rejects.toThrow('NO_SUCH_GPU')
  })
})

describe.skipIf(noDocker)('what subscribers see of GPUs and workers', () => {
  test('every change, first what there is', async () => {
    await using service = await startSimulated('1x8192', { a: sharing(4_000) })
    const gpus = service.subscribe<{ gpuUpdated: SeenGpu }>(`subscription { gpuUpdated { ${GPU_FIELDS} } }`)
    const workers = service.subscribe<{ workerUpdated: SeenWorker }>(
      `subscription { workerUpdated { ${WORKER_FIELDS} } }`,
    )
    const seenWorkers: SeenWorker[] = []
    const seenGpus: SeenGpu[] = []
    const { value } = (await gpus.next()) as { value: { gpuUpdated: SeenGpu } }
    expect(value.gpuUpdated).toMatchObject({ simulated: true, memoryClaimedMb: 0, status: 'AVAILABLE' })
    const watchWorkers = (async () => {
      for await (const { workerUpdated } of workers) {
        seenWorkers.push(workerUpdated)
        if (workerUpdated.status === 'EXITED') return
      }
    })()
    const watchGpus = (async () => {
      for await (const { gpuUpdated } of gpus) {
        seenGpus.push(gpuUpdated)
        if (gpuUpdated.drained) return
      }
    })()

    await service.run('a')
    await endSessions(service)
    await watchWorkers
    await drain(service, value.gpuUpdated.id)
    await watchGpus
    const statuses = seenWorkers.map(({ status }) => status)
    expect(statuses[0]).toBe('STARTING')
    expect(statuses).toEqual(expect.arrayContaining(['STARTING', 'WORKING', 'READY', 'EXITED']))
    expect(statuses.indexOf('WORKING')).toBeGreaterThan(statuses.indexOf('STARTING'))
    expect(statuses.at(-1)).toBe('EXITED')
    expect(seenWorkers.at(-1)?.endReason).not.toBeNull()
    expect(seenGpus.map(({ memoryClaimedMb }) => memoryClaimedMb)).toContain(4_000)
  })
})

describe('a driver’s program that fails', () => {
  let fake: FakeNvidiaSmi
  let service: TestService
  beforeAll(async () => {
    fake = await makeFakeNvidiaSmi()
    // As processes: no engine could hand over a GPU that is not there.
    service = await TestService.start({
      runner: 'process',
      env: { GPUS: 'auto', PATH: fake.path },
      presets: {
        long: LONG,
        short: SHORT,
        none: script(`${CONNECTED}; ${FINISHED}`),
      },
    })
  })
  afterEach(async () => {
    await fake.becomes('works')
    await cancelAll(service)
    await untilGpu(service, 0, { status: 'AVAILABLE', stale: false })
  })
  afterAll(async () => {
    await service[Symbol.asyncDispose]()
    await fake[Symbol.asyncDispose]()
  })

  test('is a GPU like any other while it works, but cannot be simulated', async () => {
    expect(await service.gpu()).toMatchObject({ id: FAKE_GPU, simulated: false, stale: false, health: 'OK' })
    expect(await service.run('short')).toMatchObject({ status: 'COMPLETED', gpuIds: [FAKE_GPU] })
    expect(await simulate(service, FAKE_GPU, { foreignMemoryMb: 1 })).toMatchObject({ code: 'NOT_SIMULATED' })
  })

  test.each(['hangs', 'removed'] as const)(
    '%s: its GPU is stale, which is told, and planning goes on',
    async (behaviour) => {
      await fake.becomes(behaviour)
      await untilGpu(service, 0, { stale: true, problem: expect.any(String) as string })
      expect(await service.run('none')).toMatchObject({ status: 'COMPLETED' })
      expect(await service.run('short')).toMatchObject({ status: 'COMPLETED', gpuIds: [FAKE_GPU] })
    },
  )

  test.each(['lost', 'absent'] as const)(
    'tells that its GPU is %s: its task fails with GPU_LOST, and the next waits until it is back',
    async (behaviour) => {
      const running = await service.submit('long')
      await service.reached(running, 'RUNNING')
      await fake.becomes(behaviour)
      expect(await service.ended(running)).toMatchObject({ status: 'FAILED', error: { code: 'GPU_LOST' } })
      expect(await service.gpu()).toMatchObject({ status: 'LOST', health: 'LOST' })
      const waiting = await service.submit('short')
      expect((await service.task(waiting)).status).toBe('QUEUED')
      await fake.becomes('works')
      expect(await service.ended(waiting)).toMatchObject({ status: 'COMPLETED' })
    },
  )
})
