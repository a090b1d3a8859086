import { LOADING_WORKER_IMAGE, testEngine } from '@gpu-service/test-engine'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { RUNNERS, noDocker, CONNECTED, FINISHED, say, script } from './scripts.ts'
import { EVENT_FIELDS, faultsOf, TestService, type SeenEvent } from './service.ts'

/** Counts to `lines`, about a hundred a second. */
const counting = (lines: number): string =>
  `${CONNECTED}; i=0; while [ $i -lt ${lines} ]; do echo "{\\"event\\":\\"text_delta\\",\\"delta\\":\\"$i \\"}"; echo "err $i" >&2; i=$((i+1)); sleep 0.01; done; ${FINISHED}`

describe.skipIf(noDocker)('the loading-worker in a container, as the seed shows it', () => {
  let service: TestService
  let id: string
  let events: SeenEvent[]
  beforeAll(async () => {
    await testEngine()?.ensureImage(LOADING_WORKER_IMAGE)
    service = await TestService.start({
      runner: 'docker',
      presets: {
        loading: {
          docker_image: LOADING_WORKER_IMAGE,
          command: ['python', '/app/worker.py'],
          env_vars: { MODEL_NAME: 'test-loading' },
        },
      },
    })
    id = await service.submit('loading')
    events = await service.events(id)
  })
  afterAll(() => service[Symbol.asyncDispose]())

  test('streams the whole flow in its order', () => {
    expect(faultsOf(events)).toEqual([])
    const steps = events
      .filter((event) => event.__typename !== 'LogEvent')
      .map((event) =>
        event.__typename === 'WorkerEvent'
          ? `worker ${String(event['status'])}`
          : (event.taskStatus ?? event.__typename),
      )
    expect(steps.filter((step, index) => step !== steps[index - 1])).toEqual([
      'QUEUED',
      'STARTING',
      'RUNNING',
      'ConnectionEvent',
      'worker initializing',
      'worker loading',
      'TextDeltaEvent',
      'TextEvent',
      'worker cleaning_up',
      'FinishEvent',
      'COMPLETED',
    ])
  })

  test('keeps the text, which is the deltas joined', async () => {
    const deltas = events
      .filter((event) => event.__typename === 'TextDeltaEvent')
      .map((event) => event['delta'])
    const task = await service.task(id)
    expect(task.text).toBe(deltas.join(''))
    expect(task).toMatchObject({ status: 'COMPLETED', exitCode: 0, error: null, lastSeq: events.length })
  })

  test('gives a client that reconnects at any cursor exactly the rest', async () => {
    for (let after = 0; after <= events.length; after++) {
      expect(await service.events(id, after)).toEqual(events.slice(after))
    }
  })

  test('gives the same transcript by query, page by page', async () => {
    const pages: SeenEvent[] = []
    while (pages.length < events.length) {
      const { task } = await service.query<{ task: { events: { events: SeenEvent[]; lastSeq: number } } }>(
        `query ($id: ID!, $after: Int!) { task(id: $id) { events(first: 4, after: $after) { lastSeq events { ${EVENT_FIELDS} } } } }`,
        { id, after: pages.length },
      )
      expect(task.events.lastSeq).toBe(events.length)
      pages.push(...task.events.events)
    }
    expect(pages).toEqual(events)
  })

  test('gives the same transcript as server-sent events', async () => {
    const response = await fetch(`${service.url}/stream`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', accept: 'text/event-stream' },
      body: JSON.stringify({
        query: `subscription ($id: ID!) { taskEvents(taskId: $id) { events { ${EVENT_FIELDS} } } }`,
        variables: { id },
      }),
    })
    const text = await response.text()
    const seen = text
      .split('\n')
      .filter((line) => line.startsWith('data: {'))
      .flatMap(
        (line) =>
          (JSON.parse(line.slice(6)) as { data: { taskEvents: { events: SeenEvent[] } } }).data.taskEvents
            .events,
      )
    expect(seen).toEqual(events)
    expect(text).toContain('event: complete')
  })

  test.each([
    [-1, 'BAD_CURSOR'],
    [1_000, 'BAD_CURSOR'],
  ])('refuses the cursor %d with %s', async (after, code) => {
    await expect(service.events(id, after)).rejects.toThrow(code)
  })

  test('refuses an unknown task with NOT_FOUND', async () => {
    await expect(service.events('0192d3a5-0000-7000-8000-000000000000')).rejects.toThrow('NOT_FOUND')
  })
})

for (const { runner, skipped } of RUNNERS) {
  describe.skipIf(skipped)(`a live stream with the ${runner} runner`, () => {
    let service: TestService
    beforeAll(async () => {
      service = await TestService.start({
        runner,
        presets: {
          count: script(counting(300)),
          slow: script(`${CONNECTED}; sleep 1; ${say('late')}; ${FINISHED}`),
        },
      })
    })
    afterAll(() => service[Symbol.asyncDispose]())

    test('read by clients that come, go and come back at every cursor is the stored transcript', async () => {
      const id = await service.submit('count')
      const hopping = async (step: number): Promise<SeenEvent[]> => {
        const seen: SeenEvent[] = []
        for (let more = true; more;) {
          const before = seen.length
          const part = await service.events(id, before, (event) => event.seq >= before + step)
          seen.push(...part)
          more = part.length === step || !['COMPLETED', 'FAILED'].includes(String(seen.at(-1)?.taskStatus))
          if (part.length === 0) break
        }
        return seen
      }
      const transcripts = await Promise.all([1, 2, 7, 40, 10_000].map(hopping))
      const stored = await service.events(id)
      expect(faultsOf(stored)).toEqual([])
      for (const transcript of transcripts) expect(transcript).toEqual(stored)
    })

    test('goes on where it was when the service is stopped and started again, with the same worker', async () => {
      const id = await service.submit('count')
      const before = await service.events(id, 0, (event) => event['delta'] === '100 ')
      const { worker } = await service.task(id)
      expect(await service.down('SIGTERM')).toBe(0)
      await service.up()
      const after = await service.events(id, before.length)
      const all = [...before, ...after]
      expect(faultsOf(all)).toEqual([])
      expect(all).toEqual(await service.events(id))
      expect(
        all.filter((event) => event.__typename === 'TextDeltaEvent').map((event) => event['delta']),
      ).toEqual(Array.from({ length: 300 }, (_, i) => `${i} `))
      expect(all.filter((event) => event.__typename === 'LogEvent').map((event) => event['line'])).toEqual(
        Array.from({ length: 300 }, (_, i) => `err ${i}`),
      )
      expect(await service.task(id)).toMatchObject({ status: 'COMPLETED', attempt: 1, worker })
    })

    test('is settled when its worker ended while the service was away, also after kill -9', async () => {
      const id = await service.submit('slow')
      await service.reached(id, 'RUNNING')
      await service.down('SIGKILL')
      await service.up()
      const events = await service.events(id)
      expect(faultsOf(events)).toEqual([])
      expect(await service.task(id)).toMatchObject({ status: 'COMPLETED', text: 'late', attempt: 1 })
    })

    test('closes its sockets with 1001 when the service stops', async () => {
      const id = await service.submit('count')
      await service.reached(id, 'RUNNING')
      const watching = service.events(id).catch((error: unknown) => error)
      await service.events(id, 0, (event) => event.seq > 10)
      await service.down('SIGTERM')
      expect(await watching).toMatchObject({ code: 1001 })
      await service.up()
      await service.ended(id)
    })
  })
}
