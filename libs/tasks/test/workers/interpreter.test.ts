import { describe, expect, test } from 'vitest'
import type { ArtifactId, TaskEventBody, WorkerMode } from '../../src/index.ts'
import { Interpreter } from '../../src/workers/interpreter.ts'
import { Transcript } from '../../src/workers/transcript.ts'

const SUSPICION = 'The disk was full.'
const FINISH = { event: 'finish', status: 'completed' }

/** A worker with one task (or, as a session, without), and what has been written of both. */
function stage({
  mode = 'ONE_OFF',
  eventSeq = 0,
  tasks = ['task.1'],
}: {
  mode?: WorkerMode
  eventSeq?: number | null
  tasks?: readonly string[]
} = {}) {
  const written: TaskEventBody[] = []
  const own: TaskEventBody[] = []
  const ignore = () => undefined
  const runs = new Map(
    tasks.map((id) => {
      const sink = {
        onSignOfLife: ignore,
        onFirstText: ignore,
        onFinish: ignore,
        onArtifact: ignore,
        onLoss: ignore,
      }
      const write = (body: TaskEventBody) => void written.push(body)
      const transcript = new Transcript({ ...sink, write }, { signOfLife: false, text: false, finish: null })
      return [id, { transcript }] as const
    }),
  )
  const interpreter = new Interpreter({
    mode,
    runs,
    handed: new Map([...runs].map(([id, { transcript }]) => [id, transcript])),
    sink: {
      write: (body) => void own.push(body),
      ...{ onReady: ignore, onLoading: ignore, onMemory: ignore, onForeign: ignore, onFinished: ignore },
    },
    newArtifactId: () => 'artifact' as ArtifactId,
    takeArtifact: () => Promise.resolve({ status: 'refused', message: 'none is expected' }),
    isPast: () => false,
    beforeFinish: () => null,
    isReady: mode === 'SESSION',
    redactor: () => null,
    eventSeq,
  })
  return {
    written,
    own,
    interpreter,
    say: (...events: readonly object[]) =>
      interpreter.feed('stdout', Buffer.from(events.map((event) => `${JSON.stringify(event)}\n`).join(''))),
    outputLost: () => [...runs.values()].map(({ transcript }) => transcript.outputLost),
    inDoubt: () => [...runs.values()].map(({ transcript }) => transcript.isInDoubt),
    kinds: () => written.map(({ type }) => type),
  }
}

const text = (seq?: number) => ({ event: 'text_delta', delta: 'x', ...(seq !== undefined && { seq }) })

describe('output that may have been lost', () => {
  test('counts as lost where the worker does not number its events, and is told once', async () => {
    const { say, interpreter, kinds, outputLost } = stage()
    await say(text())
    for (let n = 0; n < 3; n++) interpreter.gap(SUSPICION, false)
    await say(FINISH)
    expect(kinds()).toEqual(['text_delta', 'gap', 'finish'])
    expect(outputLost()).toEqual([true])
  })

  test('is a warning where it does, and its count says what is missing', async () => {
    const { say, interpreter, written, kinds, outputLost } = stage()
    await say(text(1))
    interpreter.gap(SUSPICION, false)
    await say(text(2))
    expect(outputLost()).toEqual([false])
    expect(written[1]).toMatchObject({
      type: 'log',
      level: 'warning',
      line: expect.stringContaining(SUSPICION) as string,
    })
    await say(text(4))
    expect(kinds()).toEqual(['text_delta', 'log', 'text_delta', 'gap', 'text_delta'])
    expect(outputLost()).toEqual([true])
  })

  test.each([
    ['numbered', text(1), ['log', 'text_delta'], false],
    ['numbered, with a hole before it', text(2), ['log', 'gap', 'text_delta'], true],
    ['not numbered', text(), ['gap', 'text_delta'], true],
  ])('before the first event waits for it: %s', async (_what, first, kinds, isLost) => {
    const told = stage()
    told.interpreter.gap(SUSPICION, false)
    expect(told.written).toEqual([])
    await told.say(first)
    expect(told.kinds()).toEqual(kinds)
    expect(told.outputLost()).toEqual([isLost])
  })

  test('is told also where the worker ends without a word', async () => {
    const { interpreter, kinds } = stage()
    interpreter.gap(SUSPICION, false)
    await interpreter.end()
    expect(kinds()).toEqual(['gap'])
  })

  test('is a warning after the finish, behind which nothing counts', async () => {
    const { say, interpreter, kinds, outputLost } = stage()
    await say(text(), FINISH)
    interpreter.gap(SUSPICION, false)
    expect(kinds()).toEqual(['text_delta', 'finish', 'log'])
    expect(outputLost()).toEqual([false])
  })

  test.each([
    [null, 'gap'],
    [7, 'log'],
  ])('is judged after a restart by the count that was stored (%s)', (eventSeq, type) => {
    const { interpreter, kinds } = stage({ eventSeq })
    interpreter.gap(SUSPICION, false)
    expect(kinds()).toEqual([type])
  })

  test('goes once into the log of a session worker without a task', () => {
    const { interpreter, own } = stage({ mode: 'SESSION', eventSeq: null, tasks: [] })
    for (let n = 0; n < 3; n++) interpreter.gap(SUSPICION, false)
    expect(own).toEqual([{ type: 'gap', detail: SUSPICION }])
  })
})

test.each([true, false])(
  'a notice is a warning of every task, and forbids none of them to be complete',
  (mayLack) => {
    const { interpreter, written, outputLost, inDoubt } = stage({ mode: 'SESSION', tasks: ['a.1', 'b.1'] })
    interpreter.notice('The engine was away.', mayLack)
    expect(written).toMatchObject([
      { type: 'log', level: 'warning', line: 'The engine was away.' },
      { type: 'log', level: 'warning', line: 'The engine was away.' },
    ])
    expect(outputLost()).toEqual([false, false])
    expect(inDoubt()).toEqual([mayLack, mayLack])
  },
)
