import { describe, expect, test } from 'vitest'
import { plan, type Plan, type PlanInput, type PlannedWorker } from '../../src/planner/index.ts'
import {
  facts,
  gpu,
  gpuId,
  need,
  NO_FACTS,
  NOW,
  part,
  presetId,
  session,
  situation,
  task,
  taskId,
  worker,
} from './situation.ts'
import { checkPlan } from './rules.ts'
import { live, randomFrom, type WorldPreset, type WorldTask } from './world.ts'

const LONG_AGO = NOW - 40_000
const on = (index: number): PlannedWorker['claim'] => ({ gpuIds: [gpuId(index)], memoryMb: null })
const chat = (id: string, more: Parameters<typeof task>[1] = {}): ReturnType<typeof task> =>
  task(id, { preset: 'chat', session: session(), ...more })
const warm = (id: string, more: Parameters<typeof worker>[1] = {}): PlannedWorker =>
  worker(id, { preset: 'chat', session: session(), ...more })
const BUSY = { runningSince: [NOW - 100], runningOwners: ['ann'], idleSince: null }

/** `task→worker`, `+task` for a start, `-worker` for an end. */
function told(made: Plan): string[] {
  return made.actions.map((action) =>
    action.kind === 'assign'
      ? `${action.taskId}→${action.workerId}`
      : action.kind === 'start'
        ? `+${action.taskId ?? action.presetId}`
        : `-${action.workerId}`,
  )
}
const acts = (more: Parameters<typeof situation>[0]): string[] => told(plan(situation(more)))

describe('a task for a session', () => {
  test('goes to a warm worker that is free', () => {
    expect(plan(situation({ workers: [warm('w')], queue: [chat('a')] })).actions).toEqual([
      {
        kind: 'assign',
        taskId: 'a',
        workerId: 'w',
        warm: true,
        reason: 'Session worker w is warm and free.',
      },
    ])
  })

  test('goes to the worker that served its affinity key last', () => {
    const workers = [
      warm('v', { affinities: new Map([['user', NOW - 9_000]]) }),
      warm('w', { claim: on(1), affinities: new Map([['user', NOW - 5_000]]) }),
    ]
    const made = plan(situation({ workers, queue: [chat('a', { affinity: 'user' })] }))
    expect(made.actions).toMatchObject([
      { workerId: 'w', reason: 'Session worker w is warm and free; it served this affinity key last.' },
    ])
  })

  test('goes to the less busy one, then to the most recently used, so that spare ones become idle', () => {
    const two = session({ maxConcurrency: 2 })
    const busy = warm('v', { session: two, ...BUSY })
    const idle = warm('w', { session: two, claim: on(1) })
    expect(acts({ workers: [busy, idle], queue: [chat('a', { session: two })] })).toEqual(['a→w'])
    const recent = warm('x', { claim: on(1), idleSince: NOW - 10 })
    expect(acts({ workers: [warm('w'), recent], queue: [chat('a')] })).toEqual(['a→x'])
  })

  test.each<[string, Partial<PlannedWorker>]>([
    ['is full', BUSY],
    ['is to end', { retiring: 'Its log is long.' }],
    ['is ending', { phase: 'ending' }],
    ['has served all its tasks', { session: session({ maxTasks: 3 }), tasksServed: 3 }],
    ['is too old', { session: session({ maxAgeMs: 1_000 }) }],
    ['belongs to somebody else', { owner: 'bob', session: session({ isolation: 'owner' }) }],
    ['is of another hash', { specHash: 'other' }],
    ['is on a GPU that it may not use', { claim: on(7) }],
  ])('is not given to a worker that %s', (_, more) => {
    const options = more.session ?? session()
    const queue = [chat('a', { session: options, gpus: need({ ids: [gpuId(0), gpuId(1)] }) })]
    expect(acts({ workers: [warm('w', more)], queue })).not.toContain('a→w')
  })

  test('is not given more of them at a time than a worker has slots', () => {
    const three = session({ maxConcurrency: 3, maxWorkers: 1 })
    const queue = ['a', 'b', 'c', 'd'].map((id) => chat(id, { session: three }))
    expect(acts({ workers: [warm('w', { session: three })], queue })).toEqual(['a→w', 'b→w', 'c→w'])
  })

  test('starts one where there is none, and the next ones take its further slots once it comes up', () => {
    const two = session({ maxConcurrency: 2 })
    const queue = [chat('a', { session: two }), chat('b', { session: two })]
    expect(acts({ queue })).toEqual(['+a'])
    const starting = warm('w', {
      session: two,
      phase: 'starting',
      runningSince: [NOW - 10],
      startedAt: NOW - 10,
    })
    const made = plan(situation({ workers: [starting], queue: queue.slice(1) }))
    expect(made.actions).toMatchObject([{ kind: 'assign', taskId: 'b', workerId: 'w', warm: false }])
  })

  test('waits for a busy worker that is sooner free than another would be loaded', () => {
    const known = { chat: facts({ loadMs: 20_000, runMs: 4_000 }) }
    const made = plan(situation({ workers: [warm('w', BUSY)], queue: [chat('a')], facts: known }))
    expect(made.actions).toEqual([])
    expect(made.waiting.get(taskId('a'))).toEqual({
      kind: 'session',
      reason:
        'The session worker of its preset is busy or coming up; one is expected to be free for it in about 4 s, and another one would take about 20 s to load.',
    })
  })

  test('starts another one where that is sooner, unless the preset has as many as it may', () => {
    const known = { chat: facts({ loadMs: 2_000, runMs: 4_000 }) }
    expect(acts({ workers: [warm('w', BUSY)], queue: [chat('a')], facts: known })).toEqual(['+a'])
    const only = session({ maxWorkers: 1 })
    expect(
      acts({
        workers: [warm('w', { ...BUSY, session: only })],
        queue: [chat('a', { session: only })],
        facts: known,
      }),
    ).toEqual([])
  })

  test('starts another one once it has waited as long as it may be passed', () => {
    const known = { chat: facts({ loadMs: 20_000, runMs: 4_000 }) }
    expect(
      acts({ workers: [warm('w', BUSY)], queue: [chat('a', { queuedAt: LONG_AGO })], facts: known }),
    ).toEqual(['+a'])
  })

  test('is given to a warm worker even while no worker can be started', () => {
    expect(acts({ workers: [warm('w')], queue: [chat('a')], blocked: 'The engine is away.' })).toEqual([
      'a→w',
    ])
  })

  test('gets a worker of its owner alone, for which an idle one of another owner goes where no more may be', () => {
    const own = session({ isolation: 'owner', maxWorkers: 1 })
    const workers = [warm('w', { owner: 'bob', session: own })]
    expect(acts({ workers, queue: [chat('a', { session: own })] })).toEqual(['-w'])
  })
})

describe('an idle session', () => {
  const one = { gpus: [gpu(0)] }

  test('is evicted for a task that needs its GPU, which then waits for it to be gone', () => {
    const known = { chat: facts({ loadMs: 8_000, tasksPerHour: 0.2 }) }
    const made = plan(
      situation({ ...one, workers: [warm('w')], queue: [task('a'), task('b')], facts: known }),
    )
    expect(made.actions).toEqual([
      {
        kind: 'end',
        workerId: 'w',
        forTask: 'a',
        reason:
          'Evicted for task a: reloading it costs about 8 s and it is asked for about 0.2 times an hour.',
      },
    ])
    expect(made.waiting.get(taskId('a'))?.kind).toBe('release')
    expect(made.waiting.get(taskId('b'))?.kind).toBe('gpu')
  })

  test('is not joined by another in the plans until it is gone, and nobody else takes its room', () => {
    const workers = [warm('v', { phase: 'ending' }), warm('w', { claim: on(1) })]
    const queue = [task('a'), task('b', { gpus: part(1_000), preset: 'x' })]
    const made = plan(situation({ workers, queue: [queue[0] ?? task('a')] }))
    expect(made.actions).toEqual([])
    const free = [gpu(0), gpu(1)]
    const taken = worker('x', { claim: { gpuIds: [gpuId(0)], memoryMb: 1_000 }, phase: 'ending' })
    const other = worker('y', { claim: on(1) })
    expect(acts({ gpus: free, workers: [taken, other], queue })).toEqual([])
  })

  test.each<[string, Partial<PlannedWorker>]>([
    ['is pinned', { session: session({ pinned: true }) }],
    [
      'has not been there for as long as its preset promises',
      { session: session({ minResidencyMs: 95_000 }) },
    ],
    ['works', BUSY],
    ['is still starting', { phase: 'starting', readyAt: null, idleSince: null }],
  ])('is not evicted where it %s', (_, more) => {
    expect(acts({ ...one, workers: [warm('w', more)], queue: [task('a')] })).toEqual([])
  })

  test('is evicted as soon as its residency is over', () => {
    const workers = [warm('w', { session: session({ minResidencyMs: 95_000 }) })]
    expect(plan(situation({ ...one, workers, queue: [task('a')] })).wakeAt).toBe(NOW + 5_000)
  })

  test('is not evicted where an earlier task is served by its kind', () => {
    const workers = [warm('v'), warm('w', { claim: on(1) })]
    expect(acts({ workers, queue: [chat('a', { queuedAt: NOW - 1 }), task('b')] })).toEqual(['a→v'])
  })

  test('is the one whose loss costs least, and no more go than are needed', () => {
    const of = (preset: string, index: number, memoryMb: number): PlannedWorker =>
      worker(preset, { preset, session: session(), claim: { gpuIds: [gpuId(index)], memoryMb } })
    const workers = [
      of('slow', 0, 20_000),
      of('often', 0, 20_000),
      of('cheap', 1, 15_000),
      of('rare', 1, 15_000),
    ]
    const known = {
      slow: facts({ loadMs: 60_000, tasksPerHour: 10 }),
      often: facts({ loadMs: 10_000, tasksPerHour: 100 }),
      cheap: facts({ loadMs: 1_000, tasksPerHour: 5 }),
      rare: facts({ loadMs: 30_000, tasksPerHour: 0.01 }),
    }
    expect(acts({ workers, queue: [task('a', { gpus: part(20_000) })], facts: known })).toEqual(['-rare'])
    expect(acts({ workers, queue: [task('a', { gpus: part(30_000) })], facts: known })).toEqual([
      '-rare',
      '-cheap',
    ])
  })

  test('is evicted for a place, too', () => {
    const queue = [task('a', { gpus: need({ count: 0 }) })]
    expect(acts({ workers: [warm('w')], queue, maxWorkers: 1 })).toEqual(['-w'])
  })

  test('takes no tasks of later ones while a task holds its GPU back', () => {
    const workers = [warm('v', BUSY), worker('w', { claim: on(1) })]
    const queue = [task('both', { gpus: need({ count: 2 }), queuedAt: LONG_AGO }), chat('a')]
    const two = session({ maxConcurrency: 2, maxWorkers: 1 })
    const slots = workers.map((there) => (there.session === null ? there : { ...there, session: two }))
    const withSlots = queue.map((queued) => (queued.session === null ? queued : { ...queued, session: two }))
    expect(acts({ workers: slots, queue: withSlots.slice(1) })).toEqual(['a→v'])
    expect(acts({ workers: slots, queue: withSlots })).toEqual([])
  })

  test.each<[string, Partial<PlannedWorker>, Partial<PlanInput>]>([
    ['has been idle for as long as it may', { session: session({ idleMs: 50_000 }) }, {}],
    ['is outdated', {}, { inForce: new Map([[presetId('chat'), 'new']]) }],
    ['is of a preset that is gone', {}, { inForce: new Map() }],
    ['was to end once it is idle', { retiring: 'An operator asked for it.' }, {}],
    ['is as old as it may get', { session: session({ maxAgeMs: 100_000 }) }, {}],
    ['has served as many tasks as it may', { session: session({ maxTasks: 5 }), tasksServed: 5 }, {}],
    ['is on a GPU that is out of use', {}, { gpus: [gpu(0, { unusable: 'It is drained.' })] }],
  ])('ends by itself where it %s', (_, more, around) => {
    const made = plan(situation({ workers: [warm('w', more)], ...around }))
    expect(made.actions).toMatchObject([{ kind: 'end', workerId: 'w', forTask: null }])
  })

  test.each<[string, Partial<PlannedWorker>, Partial<PlanInput>]>([
    ['has not been idle long enough', { session: session({ idleMs: 50_001 }) }, {}],
    ['is pinned', { session: session({ idleMs: 1, pinned: true }) }, {}],
    ['is outdated but asked for', {}, { inForce: new Map(), queue: [chat('a')] }],
    ['is to end but works', { retiring: 'An operator asked for it.', ...BUSY }, {}],
  ])('stays where it %s', (_, more, around) => {
    const made = plan(situation({ workers: [warm('w', more)], ...around }))
    expect(told(made)).not.toContain('-w')
  })

  test('wakes the planner when its time is over', () => {
    const made = plan(situation({ workers: [warm('w', { session: session({ idleMs: 60_000 }) })] }))
    expect(made.wakeAt).toBe(NOW + 10_000)
  })
})

describe('a session that is wanted', () => {
  const wanted = (more: Partial<PlanInput['wanted'][number]> = {}): PlanInput['wanted'] => [
    {
      presetId: presetId('chat'),
      specHash: 'hash of chat',
      gpus: need(),
      session: session({ idleMs: 1 }),
      count: 1,
      notBefore: 0,
      ...more,
    },
  ]

  test('is started where it fits', () => {
    expect(plan(situation({ wanted: wanted({ count: 2 }) })).actions).toMatchObject([
      { kind: 'start', taskId: null, presetId: 'chat', claim: { gpuIds: ['GPU-0'] } },
      { kind: 'start', taskId: null, claim: { gpuIds: ['GPU-1'] } },
    ])
  })

  test('is not started where as many are there, before its time, for others, or where a task waits', () => {
    expect(acts({ wanted: wanted(), workers: [warm('w')] })).toEqual([])
    const later = plan(situation({ wanted: wanted({ notBefore: NOW + 9 }) }))
    expect([later.actions, later.wakeAt]).toEqual([[], NOW + 9])
    expect(
      acts({ wanted: wanted(), workers: [worker('w', { preset: 'x', session: session() })], gpus: [gpu(0)] }),
    ).toEqual([])
    expect(
      acts({ wanted: wanted(), workers: [worker('w')], queue: [task('a', { gpus: need({ count: 2 }) })] }),
    ).toEqual([])
    expect(acts({ wanted: wanted(), blocked: 'The engine is away.' })).toEqual([])
  })

  test('does not end for being idle', () => {
    const idle = session({ idleMs: 1 })
    const workers = [
      warm('v', { session: idle, idleSince: NOW - 90 }),
      warm('w', { session: idle, claim: on(1) }),
    ]
    expect(acts({ wanted: wanted(), workers })).toEqual(['-w'])
  })
})

describe('two presets in turns', () => {
  const preset = (name: string, memoryMb: number, minResidencyMs: number): WorldPreset => ({
    name,
    gpus: part(memoryMb),
    session: session({ minResidencyMs }),
    loadMs: 5_000,
    useMb: memoryMb,
    facts: facts({ loadMs: 5_000, runMs: 200, tasksPerHour: 1_000 }),
  })
  const turns = (presets: readonly WorldPreset[], count: number, everyMs: number): WorldTask[] =>
    Array.from({ length: count }, (_, at) => ({
      at: at * everyMs,
      preset: presets[at % presets.length] ?? preset('none', 1, 0),
      runMs: 200,
      owner: 'ann',
      priority: 0,
      affinity: null,
    }))
  const rules = { priorityStepMs: 60_000, fairnessStepMs: 0, maxFairnessMs: 0, maxPassMs: 30_000 }
  const world = { gpus: [gpu(0)], changes: [], maxWorkers: 8, rules, releaseMs: 1_000 }

  test('that fit together are never loaded again', () => {
    const tasks = turns([preset('a', 20_000, 0), preset('b', 20_000, 0)], 400, 1_000)
    const { loads, evictions, startedAt } = live({ ...world, tasks }, (input, made, { foreignMb }) => {
      checkPlan(input, made, foreignMb)
    })
    expect({ loads, evictions, started: startedAt.size }).toEqual({ loads: 2, evictions: 0, started: 400 })
  })

  test('that do not swap no more often than their residency allows, and nobody waits over the bound', () => {
    const residencyMs = 15_000
    const tasks = turns([preset('a', 30_000, residencyMs), preset('b', 30_000, residencyMs)], 600, 1_000)
    const { loads, startedAt, endedAt } = live({ ...world, tasks }, () => undefined)
    expect(startedAt.size).toBe(600)
    expect(loads).toBeLessThanOrEqual(Math.ceil((endedAt - NOW) / (residencyMs + 5_000)) + 1)
    const longest = Math.max(
      ...tasks.map(
        ({ at }, index) => (startedAt.get(taskId(`task-${String(index).padStart(4, '0')}`)) ?? 0) - NOW - at,
      ),
    )
    expect(longest).toBeLessThanOrEqual(rules.maxPassMs + 2 * (residencyMs + 5_000 + 1_000) + 200)
  })
})

describe('eviction by expected cost', () => {
  const kinds = [
    { loadMs: 60_000, tasksPerHour: 20 },
    { loadMs: 4_000, tasksPerHour: 60 },
    { loadMs: 45_000, tasksPerHour: 8 },
    { loadMs: 3_000, tasksPerHour: 30 },
    { loadMs: 20_000, tasksPerHour: 40 },
    { loadMs: 5_000, tasksPerHour: 6 },
    { loadMs: 30_000, tasksPerHour: 2 },
  ]
  const presets = kinds.map(({ loadMs, tasksPerHour }, at): WorldPreset => ({
    name: `kind-${at}`,
    gpus: part(10_000),
    session: session(),
    loadMs,
    useMb: 10_000,
    facts: facts({ loadMs, runMs: 500, tasksPerHour }),
  }))

  /** Four hours of arrivals at random, each preset at its own rate. */
  function trace(seed: number): WorldTask[] {
    const random = randomFrom(seed)
    return presets.flatMap((preset, at) => {
      const tasks: WorldTask[] = []
      const meanMs = 3_600_000 / (kinds[at]?.tasksPerHour ?? 1)
      for (let now = 0; ;) {
        now += Math.ceil(-Math.log(1 - random()) * meanMs)
        if (now > 4 * 3_600_000) return tasks
        tasks.push({ at: now, preset, runMs: 500, owner: 'ann', priority: 0, affinity: null })
      }
    })
  }

  /** Where all cost the same the one that was idle longest goes. */
  const alike = (input: PlanInput): PlanInput => ({
    ...input,
    factsOf: () => ({
      ...NO_FACTS,
      loadMs: { low: 1, middle: 20_000, high: 1 },
      runMs: { low: 1, middle: 500, high: 1 },
    }),
  })
  const longestIdle = (input: PlanInput): Plan => plan(alike(input))
  const firstStarted = (input: PlanInput): Plan =>
    plan({
      ...alike(input),
      workers: input.workers.map((there) =>
        there.idleSince === null ? there : { ...there, idleSince: there.startedAt },
      ),
    })

  test.each([1, 2, 3])(
    'waits less in all than eviction of the longest idle or the first started (trace %i)',
    (seed) => {
      const rules = { priorityStepMs: 60_000, fairnessStepMs: 0, maxFairnessMs: 0, maxPassMs: 30_000 }
      const world = { gpus: [gpu(0)], tasks: trace(seed), changes: [], maxWorkers: 32, rules, releaseMs: 500 }
      const waitOf = (planner: (input: PlanInput) => Plan): number =>
        live(world, () => undefined, planner).waitMs
      const ours = waitOf(plan)
      expect(ours).toBeLessThan(waitOf(longestIdle))
      expect(ours).toBeLessThan(waitOf(firstStarted))
    },
  )
})
