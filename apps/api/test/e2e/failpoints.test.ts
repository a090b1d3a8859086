import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { testEngine } from '@gpu-service/test-engine'
import { type EngineGate, openEngineGate } from '../failpoints/engine-gate.ts'
import { Lane } from '../failpoints/lane.ts'
import type { FailAction, Failpoint } from '../failpoints/protocol.ts'
import { SCENARIOS, type Scenario } from '../failpoints/scenarios.ts'
import { noDocker } from './scripts.ts'

/** Services that are made to fail at the same time. */
const LANES = 3
const TIMEOUT = 600_000

/** A step of a scenario at which something happens. */
interface Crossing {
  readonly scenario: Scenario
  readonly failpoint: Failpoint
  /** The scenario comes to it only now and then. */
  readonly isByChance: boolean
}

/** What changes nothing: a crash after it is one before the next step. */
const READS =
  /^(store\.(task|submitted|events|activeTasks|liveWorkers|history|drains)|runner\.(inspect|list|processes|openInput|output end)|gpus\..*)$/
/** What fails has not written anything: so says the port. */
const WRITES = /^store\./
/** What only a client's question causes. */
const ASKED = /^store\.(tasksById|output|artifacts|attempts)$/

/** Starts are recorded so often: what they find depends on how far the killed process had come. */
const RECORDINGS = 3

/** The steps that each scenario takes, and in how many of its recordings. */
type Recorded = ReadonlyMap<Scenario, ReadonlyMap<string, number>>

async function recordings(
  of: () => Promise<ReadonlySet<string>>,
  times: number,
): Promise<Map<string, number>> {
  const seen = new Map<string, number>()
  for (let n = 0; n < times; n++) for (const step of await of()) seen.set(step, (seen.get(step) ?? 0) + 1)
  return seen
}

/** Each step once, in the first scenario that has it, before and, where it changes something, after it; with FAILPOINTS=all in every scenario. */
function crossingsOf(
  recorded: Recorded,
  { action, times = 1, but = [] }: { action: FailAction; times?: number; but?: readonly string[] },
): Crossing[] {
  const isAll = process.env['FAILPOINTS'] === 'all'
  const crossings: Crossing[] = []
  const seen = new Set<string>(isAll ? [] : but)
  for (const [scenario, steps] of recorded) {
    for (const [step, count] of steps) {
      if (ASKED.test(step) || seen.has(step)) continue
      if (step === 'store.compact' && scenario.isCompacted !== true) continue
      if (!isAll) seen.add(step)
      const isBeforeOnly = READS.test(step) || (action.kind === 'throw' && WRITES.test(step))
      for (const side of isBeforeOnly ? (['before'] as const) : (['before', 'after'] as const))
        crossings.push({ scenario, failpoint: { step, side, n: 1, action }, isByChance: count < times })
    }
  }
  return crossings
}

describe('a service with process workers', () => {
  let lanes: readonly Lane[]
  const recorded = new Map<Scenario, ReadonlyMap<string, number>>()
  beforeAll(async () => {
    lanes = await Promise.all(Array.from({ length: LANES }, (_, n) => Lane.open('process', `lane-${n}`)))
    for (const scenario of SCENARIOS)
      recorded.set(scenario, await recordings(() => first().record(scenario), 1))
  })
  afterAll(() => Promise.all(lanes.map((lane) => lane[Symbol.asyncDispose]())))

  const first = (): Lane => lanes[0] ?? raise('there is no lane')

  /** Shares the crossings among the lanes; gives all that was wrong. */
  async function crossAll(
    crossings: readonly Crossing[],
    cross: (lane: Lane, crossing: Crossing) => Promise<readonly string[]>,
  ): Promise<readonly string[]> {
    const left = [...crossings]
    const faults: string[] = []
    await Promise.all(
      lanes.map(async (lane) => {
        for (let next = left.shift(); next !== undefined; next = left.shift())
          faults.push(...(await cross(lane, next)))
      }),
    )
    return faults
  }

  test(
    'that is killed at any step of a task loses nothing, does nothing twice and leaves nothing',
    { timeout: TIMEOUT },
    async () => {
      const crossings = crossingsOf(recorded, { action: { kind: 'kill' } })
      expect(crossings.length).toBeGreaterThan(50)
      const lost = crossAll(crossings, (lane, { scenario, failpoint }) => lane.cross(scenario, failpoint))
      expect(await lost).toEqual([])
    },
  )

  test(
    'that is killed again at any step of taking up what it was killed over does not either',
    { timeout: TIMEOUT },
    async () => {
      const starts = new Map<Scenario, ReadonlyMap<string, number>>()
      await Promise.all(
        lanes.map(async (lane, index) => {
          for (const [at, scenario] of SCENARIOS.entries())
            if (scenario.leftAt !== undefined && at % LANES === index)
              starts.set(scenario, await recordings(() => lane.recordStart(scenario), RECORDINGS))
        }),
      )
      const inOrder = new Map(
        [...starts].sort(([one], [other]) => SCENARIOS.indexOf(one) - SCENARIOS.indexOf(other)),
      )
      const but = [...recorded.values()].flatMap((steps) => [...steps.keys()])
      const crossings = crossingsOf(inOrder, { action: { kind: 'kill' }, times: RECORDINGS, but })
      expect(crossings.filter(({ isByChance }) => !isByChance).length).toBeGreaterThan(5)
      const lost = crossAll(crossings, (lane, { scenario, failpoint, isByChance }) =>
        lane.crossStart(scenario, failpoint, isByChance),
      )
      expect(await lost).toEqual([])
    },
  )

  test(
    'in which any step of a task fails once goes on, and the task has an end',
    { timeout: TIMEOUT },
    async () => {
      const crossings = crossingsOf(recorded, { action: { kind: 'throw' } })
      const stuck = crossAll(crossings, (lane, { scenario, failpoint }) => lane.pass(scenario, failpoint))
      expect(await stuck).toEqual([])
    },
  )
})

describe.skipIf(noDocker)('a service with containers', () => {
  const scenario = (name: string): Scenario =>
    SCENARIOS.find((candidate) => candidate.name === name) ?? raise(`there is no scenario ${name}`)
  const PLAIN = scenario('a one-off task')
  const WARM = scenario('a task of a session that is warm')
  const CANCELLED = scenario('a one-off task that is cancelled and gives its GPU back')

  let gate: EngineGate
  let lane: Lane
  beforeAll(async () => {
    const engine = testEngine() ?? raise('there is no engine')
    gate = await openEngineGate(new URL(engine.dockerHost).pathname)
    lane = await Lane.open('docker', 'containers', { DOCKER_HOST: gate.dockerHost })
  })
  afterAll(async () => {
    await lane[Symbol.asyncDispose]()
    await gate[Symbol.asyncDispose]()
  })

  test.each([
    ['POST', /^POST [^ ]*\/containers\/create\?/],
    ['POST', /^POST [^ ]*\/attach\?/],
    ['POST', /^POST [^ ]*\/start/],
    ['DELETE', /^DELETE [^ ]*\/containers\//],
  ])(
    'that is killed before and after its call %s %s makes one container, and removes it',
    async (_method, call) => {
      const faults = [
        ...(await lane.crossEngine(PLAIN, gate, { call, side: 'before' })),
        ...(await lane.crossEngine(PLAIN, gate, { call, side: 'after' })),
      ]
      expect(faults).toEqual([])
    },
  )

  test.each([
    ['after', 'runner.start', PLAIN],
    ['before', 'runner.output end', PLAIN],
    ['after', 'runner.remove', PLAIN],
    ['before', 'input.run', WARM],
    ['after', 'input.run', WARM],
    ['after', 'runner.stop', CANCELLED],
  ] as const)('that is killed %s %s loses nothing and does nothing twice', async (side, step, walked) => {
    const failpoint = { side, step, n: 1, action: { kind: 'kill' } } as const
    expect(await lane.cross(walked, failpoint)).toEqual([])
  })
})

function raise(message: string): never {
  throw new Error(message)
}
