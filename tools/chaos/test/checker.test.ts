import { describe, expect, test } from 'vitest'
import type { SeenEvent, SeenTask } from '../src/api.ts'
import { Ledger } from '../src/ledger.ts'
import { checkStory, type Story } from '../src/story.ts'

const TASK_ID = '01a217f7-a751-75d4-995a-734e054868e9'
const RUN = `${TASK_ID}.1`
const LINES = 6

type Body = Omit<SeenEvent, 'seq' | 'at' | 'attempt'> & {
  readonly __typename: string
  readonly attempt?: number
}

const status = (taskStatus: string, attempt = 1): Body => ({
  __typename: 'TaskStatusEvent',
  taskStatus,
  attempt,
})
const said = (number: number, run = RUN): Body => ({
  __typename: 'TextDeltaEvent',
  delta: `[o${number} ${run}] xx `,
})
const logged = (number: number, run = RUN): Body => ({
  __typename: 'LogEvent',
  stream: 'STDERR',
  line: `[e${number} ${run}] yy`,
})
const GAP: Body = { __typename: 'GapEvent', detail: 'something is missing' }

const WHOLE: readonly Body[] = [
  status('QUEUED', 0),
  status('STARTING'),
  status('RUNNING'),
  ...Array.from({ length: LINES }, (_, index) => [said(index + 1), logged(index + 1)]).flat(),
  { __typename: 'ArtifactEvent', artifact: { name: `[o${LINES + 1} ${RUN}]` } },
  { __typename: 'ResultEvent', value: { stdout: LINES + 1, stderr: LINES } },
  { __typename: 'FinishEvent', status: 'completed', error: null },
  status('COMPLETED'),
]

function eventsOf(bodies: readonly Body[]): SeenEvent[] {
  return bodies.map((body, index) => ({
    ...{ attempt: 1, at: '2026-11-26T12:00:00.000Z' },
    ...body,
    seq: index + 1,
  }))
}

const ATTEMPT = {
  attempt: 1,
  warm: false,
  startedAt: '2026-11-26T13:00:00.000Z',
  finishedAt: '2026-11-26T13:00:01.000Z',
  status: 'COMPLETED',
  error: null,
  exitCode: 0,
  workerId: 'w',
} as const

/** What a service would tell that holds these events for right. */
function storyOf(bodies: readonly Body[], more: Partial<Story> = {}, task: Partial<SeenTask> = {}): Story {
  const events = eventsOf(bodies)
  return {
    task: {
      id: TASK_ID,
      status: 'COMPLETED',
      attempt: 1,
      text: bodies.map(({ delta }) => (typeof delta === 'string' ? delta : '')).join(''),
      exitCode: 0,
      error: null,
      lastSeq: events.length,
      createdAt: '2026-11-26T13:00:00.000Z',
      finishedAt: '2026-11-26T13:00:01.000Z',
      cancelRequestedAt: null,
      explanation: null,
      artifacts: [{ name: 'part', bytes: '1' }],
      attempts: [ATTEMPT],
      ...task,
    },
    events,
    transcripts: [
      { after: 0, events },
      { after: 4, events: events.slice(4) },
    ],
    outcomes: ['COMPLETED'],
    cancelAsked: false,
    isCounted: true,
    excuses: { engineKilled: false, engineAwayAtEnd: false, workerEnded: false },
    ...more,
  }
}

function rulesOf(story: Story): string[] {
  const ledger = new Ledger()
  const violations = [...checkStory(story, ledger), ...ledger.missing()]
  return [...new Set(violations.map(({ rule }) => rule))].sort()
}

const LOST: Partial<SeenTask> = {
  status: 'FAILED',
  error: { code: 'OUTPUT_LOST', message: '' },
  attempts: [{ ...ATTEMPT, status: 'FAILED' }],
}

test('a whole story keeps every promise', () => {
  expect(rulesOf(storyOf(WHOLE))).toEqual([])
})

describe('a service that loses, repeats or mixes up one event, and holds that for right, is caught', () => {
  const positions = WHOLE.map((body, index) => [index, body.__typename] as const)

  test.each(positions)('where it leaves out event %i, a %s', (at) => {
    expect(rulesOf(storyOf(WHOLE.filter((_, index) => index !== at)))).not.toEqual([])
  })

  test.each(positions)('where it has event %i, a %s, twice', (at) => {
    expect(
      rulesOf(storyOf(WHOLE.flatMap((body, index) => (index === at ? [body, body] : [body])))),
    ).not.toEqual([])
  })

  test.each(positions.slice(3, -6))(
    'where event %i, a %s, changes places with the next of its stream',
    (at) => {
      const bodies = [...WHOLE]
      const [one, other] = [bodies[at], bodies[at + 2]]
      if (one === undefined || other === undefined) throw new Error('there are no such events')
      bodies[at] = other
      bodies[at + 2] = one
      expect(rulesOf(storyOf(bodies))).toContain('order')
    },
  )
})

describe('a subscriber is caught up on', () => {
  const whole = storyOf(WHOLE)
  const { events } = whole

  test.each(events.map((_, index) => index))('that lacks event %i, or has it twice, or otherwise', (at) => {
    const event = events[at]
    if (event === undefined) throw new Error('there is no such event')
    const lacking = events.filter((_, index) => index !== at)
    const twice = [...events.slice(0, at), event, ...events.slice(at)]
    const otherwise = events.map((each, index) => (index === at ? { ...each, at: 'another time' } : each))
    for (const taken of [lacking, twice, otherwise])
      expect(rulesOf({ ...whole, transcripts: [{ after: 0, events: taken }] })).toEqual(['transcript'])
  })

  test('that has come from a cursor and got what was before it', () => {
    expect(rulesOf({ ...whole, transcripts: [{ after: 4, events: events.slice(3) }] })).toEqual([
      'transcript',
    ])
  })
})

describe('numbers and states', () => {
  test('a hole in the numbers of the events is caught', () => {
    const story = storyOf(WHOLE)
    const events = story.events.map((event) => (event.seq > 5 ? { ...event, seq: event.seq + 1 } : event))
    expect(rulesOf({ ...story, events, transcripts: [] })).toContain('seq')
  })

  test('a last number that is not that of the last event is caught', () => {
    expect(rulesOf(storyOf(WHOLE, {}, { lastSeq: WHOLE.length + 1 }))).toEqual(['seq'])
  })

  test('a second final state is caught, and an event behind the only one', () => {
    expect(rulesOf(storyOf([...WHOLE, status('CANCELLED')]))).toContain('final')
    expect(rulesOf(storyOf([...WHOLE, GAP]))).toContain('final')
  })

  test('a task in another state than its last event tells is caught', () => {
    expect(rulesOf(storyOf(WHOLE, { outcomes: ['FAILED'] }, { status: 'FAILED' }))).toContain('final')
  })

  test('an attempt without an end is caught', () => {
    expect(rulesOf(storyOf(WHOLE, {}, { attempts: [{ ...ATTEMPT, finishedAt: null }] }))).toEqual([
      'attempts',
    ])
  })

  test('another end than the script and its excuses allow is caught', () => {
    expect(rulesOf(storyOf(WHOLE, { outcomes: ['FAILED WORKER_FAILED'] }))).toEqual(['outcome'])
  })

  test('a cancel that nobody has asked for is caught', () => {
    const bodies = [...WHOLE.slice(0, -2), status('CANCELLED')]
    const task = { status: 'CANCELLED', attempts: [{ ...ATTEMPT, status: 'CANCELLED' }] }
    expect(rulesOf(storyOf(bodies, {}, task))).toEqual(['outcome'])
    expect(rulesOf(storyOf(bodies, { cancelAsked: true }, { ...task, cancelRequestedAt: 'then' }))).toEqual(
      [],
    )
  })

  test('a text that is not the deltas joined is caught', () => {
    expect(rulesOf(storyOf(WHOLE, {}, { text: 'something else' }))).toEqual(['text'])
  })
})

describe('what is lost', () => {
  const holed = WHOLE.filter((_, index) => index !== 5)
  const lostBodies = [...holed.slice(0, -2), status('FAILED')]

  test('must be told by a gap', () => {
    const told = [...lostBodies.slice(0, 5), GAP, ...lostBodies.slice(5)]
    const outcomes = ['FAILED OUTPUT_LOST']
    expect(rulesOf(storyOf(lostBodies, { outcomes }, LOST))).toEqual(['lost'])
    expect(rulesOf(storyOf(told, { outcomes }, LOST))).toEqual([])
  })

  test('forbids COMPLETED, told or not', () => {
    expect(rulesOf(storyOf(holed))).toEqual(['lost'])
    expect(rulesOf(storyOf([...holed.slice(0, 5), GAP, ...holed.slice(5)]))).toEqual(['gap'])
  })

  test('on stdout is not excused by a killed engine where the events are numbered, on stderr it is', () => {
    const excuses = { engineKilled: true, engineAwayAtEnd: false, workerEnded: false }
    expect(rulesOf(storyOf(holed, { excuses }))).toEqual(['lost'])
    expect(rulesOf(storyOf(holed, { excuses, isCounted: false }))).toEqual([])
    expect(
      rulesOf(
        storyOf(
          WHOLE.filter((_, index) => index !== 6),
          { excuses },
        ),
      ),
    ).toEqual([])
  })
})

test('lines that stand beside their task are counted once, wherever they stand', () => {
  const session = WHOLE.filter((_, index) => index !== 14)
  const ledger = new Ledger()
  expect(checkStory(storyOf(session), ledger)).toEqual([])
  expect(ledger.missing()).toMatchObject([{ rule: 'lost' }])
  const mark = { runId: RUN, stream: 'e', number: LINES } as const
  expect(ledger.enter(mark, 'the log of a worker')).toEqual([])
  expect(ledger.missing()).toEqual([])
  expect(ledger.enter(mark, 'another task')).toMatchObject([{ rule: 'repeated' }])
})

test('a line that no worker has printed is caught', () => {
  const ledger = new Ledger()
  checkStory(storyOf(WHOLE), ledger)
  expect(ledger.enter({ runId: RUN, stream: 'o', number: 99 }, 'nowhere')).toMatchObject([
    { rule: 'repeated' },
  ])
  const story = storyOf(WHOLE.filter((_, index) => index !== 14))
  const books = new Ledger()
  checkStory(story, books)
  books.enter({ runId: RUN, stream: 'o', number: 99 }, 'nowhere')
  expect(books.missing()).toMatchObject([{ rule: 'invented' }, { rule: 'lost' }])
})
