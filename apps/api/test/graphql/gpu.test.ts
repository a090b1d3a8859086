import { expect, test } from 'vitest'
import type { GpuId } from '@gpu-service/tasks'
import { createChanges, createStage, GPU_ID, gpu, simulation, worker, WORKER_ID } from './stage.ts'

test('tells what a GPU has, who uses it and what stands in the way of using it', async () => {
  const telemetry = {
    sampledAt: 1_000,
    memoryUsedMb: 9_000,
    utilizationPercent: 40,
    temperatureC: 50,
    powerW: 70.5,
    eccErrors: 1,
    processes: [
      { pid: 4_242, name: 'python', memoryMb: 1_000, workerId: null },
      { pid: null, name: 'worker', memoryMb: null, workerId: WORKER_ID },
    ],
  }
  const { ask } = createStage({
    dispatcher: {
      gpus: () => [
        gpu({
          telemetry,
          status: 'QUARANTINED',
          health: 'QUARANTINED',
          problem: 'It misbehaved.',
          drained: true,
          foreignMemoryMb: 1_000,
          memoryFreeMb: 15_000,
          memoryClaimedMb: 8_000,
          workerIds: [WORKER_ID],
          explanation: 'It is kept out of use.',
        }),
      ],
      workers: () => [worker()],
    },
  })
  expect(
    await ask(
      `{ gpus { id memoryUsedMb memoryClaimedMb foreignMemoryMb memoryFreeMb eccErrors powerW status health problem drained explanation
         workers { id } processes { pid name memoryMb worker { id } } } }`,
    ),
  ).toEqual({
    gpus: [
      {
        id: GPU_ID,
        memoryUsedMb: 9_000,
        memoryClaimedMb: 8_000,
        foreignMemoryMb: 1_000,
        memoryFreeMb: 15_000,
        eccErrors: 1,
        powerW: 70.5,
        status: 'QUARANTINED',
        health: 'QUARANTINED',
        problem: 'It misbehaved.',
        drained: true,
        explanation: 'It is kept out of use.',
        workers: [{ id: WORKER_ID }],
        processes: [
          { pid: 4_242, name: 'python', memoryMb: 1_000, worker: null },
          { pid: null, name: 'worker', memoryMb: null, worker: { id: WORKER_ID } },
        ],
      },
    ],
  })
})

test('does not take processes that cannot be listed for none', async () => {
  const { ask } = createStage({ dispatcher: { gpus: () => [gpu()] } })
  expect(await ask('{ gpus { processes { pid } eccErrors } }')).toEqual({
    gpus: [{ processes: null, eccErrors: null }],
  })
})

test.each(['drainGpu', 'enableGpu'] as const)(
  '%s gives the GPU as it then is, or says that it is unknown',
  async (name) => {
    const change = (id: GpuId) =>
      Promise.resolve(id === GPU_ID ? gpu({ drained: name === 'drainGpu' }) : null)
    const { ask } = createStage({ dispatcher: { [name]: change } })
    const query = (id: string): string =>
      `mutation { ${name}(id: "${id}") { __typename ... on GpuSuccess { gpu { drained } } ... on UnknownGpuProblem { message id } } }`
    expect(await ask(query(GPU_ID))).toEqual({
      [name]: { __typename: 'GpuSuccess', gpu: { drained: name === 'drainGpu' } },
    })
    expect(await ask(query('x'))).toEqual({
      [name]: { __typename: 'UnknownGpuProblem', message: 'There is no GPU x.', id: 'x' },
    })
  },
)

function simulate(args: string, id: string = GPU_ID): string {
  return `mutation { simulateGpu(id: "${id}", ${args}) { __typename ... on GpuSuccess { gpu { id foreignMemoryMb } }
    ... on UnknownGpuProblem { message id } ... on RefusedProblem { code index } } }`
}

test('changes a simulated GPU and answers once that shows', async () => {
  const simulated = simulation([GPU_ID])
  let foreignMemoryMb = 0
  const { ask } = createStage({
    dispatcher: { gpus: () => [gpu({ foreignMemoryMb })] },
    gpus: {
      simulation: simulated,
      refresh() {
        foreignMemoryMb = 500
        return Promise.resolve()
      },
    },
  })
  expect(await ask(simulate('foreignMemoryMb: 500, releaseMs: 20, fault: ECC_ERROR'))).toEqual({
    simulateGpu: { __typename: 'GpuSuccess', gpu: { id: GPU_ID, foreignMemoryMb: 500 } },
  })
  await ask(simulate('clearFault: true'))
  await ask(simulate('fault: null'))
  expect(simulated.told).toEqual([
    { foreignMemoryMb: 500, releaseMs: 20, fault: 'ECC_ERROR' },
    { fault: null },
    {},
  ])
})

test('simulates nothing on a GPU that it does not know, or that is real', async () => {
  const unknown = createStage({ gpus: { simulation: simulation([GPU_ID]) } })
  expect(await unknown.ask(simulate('releaseMs: 1', 'x'))).toEqual({
    simulateGpu: { __typename: 'UnknownGpuProblem', message: 'There is no GPU x.', id: 'x' },
  })
  const real = createStage({ gpus: { simulation: null } })
  expect(await real.ask(simulate('releaseMs: 1'))).toEqual({
    simulateGpu: { __typename: 'RefusedProblem', code: 'NOT_SIMULATED', index: null },
  })
})

test.each([
  ['foreignMemoryMb: -1', 'foreignMemoryMb must be at least 0.'],
  ['releaseMs: -1', 'releaseMs must be at least 0.'],
  [
    'fault: LOST, clearFault: true',
    'A fault is either set or cleared: fault and clearFault do not go together.',
  ],
])('refuses to simulate %s', async (args, message) => {
  const { ask } = createStage({ gpus: { simulation: simulation([GPU_ID]) } })
  expect(await ask(simulate(args))).toEqual([`BAD_USER_INPUT: ${message}`])
})

test('tells subscribers of every GPU, then of each that changes', async () => {
  const gpuChanges = createChanges<GpuId>()
  const other = 'GPU-2' as GpuId
  let status: 'AVAILABLE' | 'BUSY' = 'AVAILABLE'
  const { subscribe } = createStage({
    dispatcher: { gpuChanges, gpus: () => [gpu({ status }), gpu({ id: other, status })] },
  })
  const results = await subscribe('subscription { gpuUpdated { id status } }')
  const next = async (): Promise<unknown> => {
    const { value } = (await results.next()) as { value?: { data?: unknown } }
    return value?.data
  }
  expect(await next()).toEqual({ gpuUpdated: { id: GPU_ID, status: 'AVAILABLE' } })
  expect(await next()).toEqual({ gpuUpdated: { id: other, status: 'AVAILABLE' } })
  status = 'BUSY'
  gpuChanges.changed(other)
  expect(await next()).toEqual({ gpuUpdated: { id: other, status: 'BUSY' } })
  await results.return?.()
})
