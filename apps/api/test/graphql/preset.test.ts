import { expect, test } from 'vitest'
import type { GpuNeed, WorkerFacts } from '@gpu-service/tasks'
import { createStage, gpu, preset, SESSION, SPEC } from './stage.ts'

const NOTHING_KNOWN: WorkerFacts = {
  ...{ learnedMemoryMb: null, loadMs: null, runMs: null, handOverMs: null },
  tasksPerHour: 0,
}

test('tells all that a preset asks for, and what was measured of it', async () => {
  const facts: WorkerFacts = {
    learnedMemoryMb: 9_000.5,
    loadMs: { low: 1, middle: 2_500.4, high: 9_999 },
    runMs: { low: 1, middle: 30 * 86_400_000, high: 9_999 },
    handOverMs: null,
    tasksPerHour: 1,
  }
  const { ask } = createStage({
    dispatcher: { factsOfPreset: () => facts, gpus: () => [gpu()] },
    presets: { preset: () => preset() },
  })
  expect(
    await ask(
      `{ preset(id: "x") { mode gpuCount gpuShare gpuMemoryMb gpuNames learnedMemoryMb claimMemoryMb loadMs runMs
         timeouts { queueMs startMs runMs silenceMs ackMs stopGraceMs finishGraceMs }
         retry { maxAttempts backoffMs on }
         session { maxConcurrency maxWorkers idleMs maxTasks maxAgeMs minResidencyMs pinned prewarm isolation } } }`,
    ),
  ).toEqual({
    preset: {
      mode: 'SESSION',
      gpuCount: 1,
      gpuShare: 'SHARED',
      gpuMemoryMb: 8_000,
      gpuNames: ['H200'],
      learnedMemoryMb: 9_001,
      claimMemoryMb: 9_001,
      loadMs: 2_500,
      runMs: 30 * 86_400_000,
      timeouts: SPEC.timeouts,
      retry: { maxAttempts: 3, backoffMs: 2_000, on: ['SESSION_DIED', 'GPU_LOST'] },
      session: { ...SESSION, isolation: 'OWNER' },
    },
  })
})

test('knows nothing of a preset that never ran, and no session where it has none', async () => {
  const { ask } = createStage({
    dispatcher: { factsOfPreset: () => NOTHING_KNOWN },
    presets: { preset: () => preset({ mode: 'ONE_OFF', session: null }) },
  })
  expect(await ask('{ preset(id: "x") { learnedMemoryMb loadMs runMs session { pinned } } }')).toEqual({
    preset: { learnedMemoryMb: null, loadMs: null, runMs: null, session: null },
  })
})

test('tells in sentences what of the confinement a preset relaxes, and nothing where it relaxes none', async () => {
  const relaxed = preset({
    relax: { user: '0:0', writableRoot: true, capabilities: ['IPC_LOCK', 'SYS_NICE'] },
    network: 'bridge',
    volumes: [
      { source: '/srv/sets', target: '/sets', readOnly: true },
      { source: '/srv/out', target: '/out', readOnly: false },
    ],
  })
  const { ask } = createStage({ presets: { presets: () => [preset(), relaxed] } })
  expect(await ask('{ presets { relaxations } }')).toEqual({
    presets: [
      { relaxations: [] },
      {
        relaxations: [
          'Workers run as 0:0, which is root inside of the container (allow.user).',
          "Workers may write anywhere in their own container's file system (allow.writable_root).",
          'Workers keep the capabilities IPC_LOCK, SYS_NICE (allow.capabilities).',
          "Workers reach what Docker's bridge network reaches (network: bridge).",
          'Workers read /srv/sets of the host at /sets (volumes).',
          'Workers read and write /srv/out of the host at /out (volumes).',
        ],
      },
    ],
  })
})

const NEED: GpuNeed = { count: 1, share: 'shared', memoryMb: null, ids: null, names: null }

test.each<[string, Partial<GpuNeed>, number | null, number | null]>([
  ['what is declared, while nothing is learned', { memoryMb: 4_000 }, null, 4_000],
  ['what is declared, where less was measured', { memoryMb: 4_000 }, 3_000, 4_000],
  ['what was measured, where it is more', { memoryMb: 4_000 }, 5_000, 5_000],
  ['what was measured, where nothing is declared', {}, 5_000, 5_000],
  ['whole GPUs, while nothing is known', {}, null, null],
  ['whole GPUs that it does not share', { share: 'exclusive', memoryMb: 4_000 }, 5_000, null],
  ['nothing, without GPUs', { count: 0 }, 5_000, null],
])('a worker would claim %s', async (_what, need, learnedMemoryMb, claimMemoryMb) => {
  const { ask } = createStage({
    dispatcher: { factsOfPreset: () => ({ ...NOTHING_KNOWN, learnedMemoryMb }), gpus: () => [gpu()] },
    presets: { preset: () => preset({ gpus: { ...NEED, ...need } }) },
  })
  expect(await ask('{ preset(id: "x") { claimMemoryMb } }')).toEqual({ preset: { claimMemoryMb } })
})
