import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { KeyCap, PlanInput } from '../../src/planner/index.ts'
import { facts, gpu, gpuId, need, NO_FACTS, NOW, part, session } from './situation.ts'
import {
  checkDueHolds,
  checkNobodyIsPassed,
  checkNothingFitsLeft,
  checkOrderDoesNotMatter,
  checkPlan,
  createPatience,
} from './rules.ts'
import { live, randomFrom, type World, type WorldChange, type WorldPreset } from './world.ts'

const SCHEDULES = 10_000
const RULES = { priorityStepMs: 2_000, fairnessStepMs: 500, maxFairnessMs: 5_000, maxPassMs: 3_000 }
const LONGEST_LOAD_MS = 4_000
const LONGEST_RUN_MS = 10_000
const LONGEST_RESIDENCY_MS = 2_000
const RELEASE_MS = 500

type Kind = 'one-off' | 'mixed' | 'faulty'

/** A world that is the same for the same numbers. */
function worldOf(seed: number, kind: Kind, size: { gpus: number; tasks: number; presets: number }): World {
  const random = randomFrom(seed)
  const int = (below: number): number => Math.floor(random() * below)
  const isOneIn = (count: number): boolean => int(count) === 0
  const gpus = Array.from({ length: size.gpus }, (_, index) =>
    gpu(index, { memoryTotalMb: 10_000 + 10_000 * int(3) }),
  )
  const presets = Array.from({ length: size.presets }, (_, at): WorldPreset => {
    const memoryMb = 1_000 * (1 + int(10))
    const count = isOneIn(6) ? 0 : isOneIn(3) ? Math.min(2, size.gpus) : 1
    const isShared = count > 0 && isOneIn(2)
    const ids = isOneIn(5) && count === 1 ? [gpuId(int(size.gpus))] : null
    const loadMs = 100 + int(LONGEST_LOAD_MS - 100)
    return {
      name: `preset-${at}`,
      gpus: isShared ? part(isOneIn(5) ? null : memoryMb, { count, ids }) : need({ count, ids }),
      session:
        kind === 'one-off' || isOneIn(2)
          ? null
          : session({
              maxConcurrency: 1 + int(3),
              maxWorkers: isOneIn(2) ? null : 1 + int(2),
              idleMs: isOneIn(2) ? null : int(6_000),
              maxTasks: isOneIn(3) ? 1 + int(5) : null,
              maxAgeMs: isOneIn(4) ? 5_000 + int(20_000) : null,
              minResidencyMs: int(LONGEST_RESIDENCY_MS),
              pinned: kind === 'faulty' && isOneIn(6),
              isolation: isOneIn(4) ? 'owner' : 'shared',
            }),
      loadMs,
      useMb: isShared ? Math.floor(memoryMb * random() * (kind === 'faulty' ? 1.5 : 1)) : 3_000,
      facts: isOneIn(2)
        ? NO_FACTS
        : facts({
            loadMs,
            runMs: 1 + int(LONGEST_RUN_MS),
            tasksPerHour: int(100),
            ...(isOneIn(2) ? { learnedMemoryMb: int(9_000) } : {}),
          }),
    }
  })
  return {
    gpus,
    maxWorkers: isOneIn(3) ? 1 + int(3) : 32,
    rules: RULES,
    releaseMs: RELEASE_MS,
    wanted: kind !== 'faulty' ? [] : presets.map((preset) => ({ preset, count: int(3) })),
    changes:
      kind !== 'faulty'
        ? []
        : Array.from({ length: int(10) }, (): WorldChange => {
            const change = { at: int(30_000), gpu: int(size.gpus) }
            if (isOneIn(3)) return { ...change, death: int(4) }
            if (isOneIn(4)) return { ...change, blocked: isOneIn(2) ? null : 'The engine is away.' }
            return isOneIn(2)
              ? { ...change, foreignMb: int(12_000) }
              : { ...change, unusable: isOneIn(2) ? null : 'It is drained.' }
          }),
    tasks: Array.from({ length: size.tasks }, () => ({
      at: int(20_000),
      preset: presets[int(presets.length)] as WorldPreset,
      runMs: 1 + int(isOneIn(3) ? LONGEST_RUN_MS : 1_000),
      owner: `owner ${int(3)}`,
      priority: isOneIn(3) ? int(4) - 2 : 0,
      affinity: isOneIn(2) ? `user ${int(4)}` : null,
    })),
  }
}

/** Whether a task can never start in such a world. */
function isHopeless({ gpus, tasks }: World): boolean {
  return tasks.some(({ preset }) => {
    const least = Math.max(preset.gpus.memoryMb ?? 0, preset.facts.learnedMemoryMb ?? 0)
    const { ids, count } = preset.gpus
    return (
      gpus.filter(({ id, memoryTotalMb }) => memoryTotalMb >= least && (ids?.includes(id) ?? true)).length <
      Number(count)
    )
  })
}

const sizes = fc.record({
  gpus: fc.integer({ min: 1, max: 4 }),
  tasks: fc.integer({ min: 1, max: 16 }),
  presets: fc.integer({ min: 1, max: 4 }),
})

function everySchedule(kind: Kind, runs: number, extra: (world: World) => (input: PlanInput) => void): void {
  fc.assert(
    fc.property(fc.integer({ min: 0 }), sizes, (seed, size) => {
      const world = worldOf(seed, kind, size)
      const random = randomFrom(seed + 1)
      const shuffle = <T>(items: readonly T[]): T[] =>
        items
          .map((item) => ({ item, at: random() }))
          .sort((a, b) => a.at - b.at)
          .map(({ item }) => item)
      const also = extra(world)
      const told = live(world, (input, made, { foreignMb }) => {
        checkPlan(input, made, foreignMb)
        checkNothingFitsLeft(input, made, foreignMb)
        checkNobodyIsPassed(input, made, foreignMb)
        checkDueHolds(input, made)
        if (random() < 0.2) checkOrderDoesNotMatter(input, made, shuffle)
        also(input)
      })
      if (kind !== 'faulty' && !isHopeless(world)) expect(told.startedAt.size).toBe(world.tasks.length)
    }),
    { numRuns: runs, seed: 20_26, endOnFailure: false },
  )
}

/** What each owner's key may have: nothing that is for ever. */
function cappedWorldOf(seed: number, size: { gpus: number; tasks: number; presets: number }): World {
  const random = randomFrom(seed + 2)
  const keys = [0, 1, 2].map((index): [string, KeyCap] => {
    const spent =
      random() < 0.3 ? { gpuSeconds: 60, until: NOW + 1_000 + Math.floor(random() * 9_000) } : null
    return [`owner ${index}`, { maxRunning: random() < 0.3 ? null : 1 + Math.floor(random() * 2), spent }]
  })
  return { ...worldOf(seed, 'mixed', size), keys: new Map(keys) }
}

describe('any schedule', () => {
  test('with API keys that may have so much keeps them to it, and starts all tasks in the end', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0 }), sizes, (seed, size) => {
        const world = cappedWorldOf(seed, size)
        const told = live(world, (input, made, { foreignMb }) => {
          checkPlan(input, made, foreignMb)
        })
        if (!isHopeless(world)) expect(told.startedAt.size).toBe(world.tasks.length)
      }),
      { numRuns: SCHEDULES * 0.1, seed: 20_26, endOnFailure: false },
    )
  }, 120_000)

  test('of one-off tasks keeps capacity, starts all that fits and lets nobody wait beyond the bound', () => {
    everySchedule('one-off', SCHEDULES * 0.4, (world) => {
      const patience = createPatience(RULES.maxPassMs + LONGEST_LOAD_MS + LONGEST_RUN_MS + 2 * RELEASE_MS)
      return isHopeless(world)
        ? () => undefined
        : (input) => {
            patience(input)
          }
    })
  }, 120_000)

  test('with sessions keeps capacity, slots, residency and pins, and lets nobody wait beyond the bound', () => {
    everySchedule('mixed', SCHEDULES * 0.4, (world) => {
      const patience = createPatience(
        RULES.maxPassMs + 2 * (LONGEST_LOAD_MS + LONGEST_RUN_MS) + LONGEST_RESIDENCY_MS + 2 * RELEASE_MS,
      )
      return isHopeless(world)
        ? () => undefined
        : (input) => {
            patience(input)
          }
    })
  }, 120_000)

  test('with GPUs that fail, workers that die and an engine that is away never claims what is not there', () => {
    everySchedule('faulty', SCHEDULES * 0.2, () => () => undefined)
  }, 120_000)
})
