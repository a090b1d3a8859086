import { setTimeout as delay } from 'node:timers/promises'
import { type Client, createClient } from 'graphql-ws'
import WebSocket from 'ws'
import type { PresetSource, TestService } from '../test/e2e/service.ts'
import { type Bench, median, percentile, type Row } from './row.ts'

/** A session worker that has nothing to load, so that a cold start costs no more than it must. */
const session = (options: PresetSource): PresetSource => ({
  docker_image: 'session-worker:latest',
  command: ['python', '/app/worker.py'],
  env_vars: { LOAD_SECONDS: '0' },
  mode: 'session',
  gpus: { count: 0 },
  session: options,
})

const INPUT = { input: { text: 'one', tokens: 1, interval_ms: 0 } }
const COLD_STARTS = 5
const WARM_TASKS = 200

export const warmTask: Bench = {
  presets: { warm: session({ max_workers: 1, pinned: true }) },
  async run(service, report) {
    const subscriber = openSubscriber(service)
    const cold: number[] = []
    for (let n = 0; n < COLD_STARTS; n++) {
      if (n > 0) await endSession(service)
      cold.push(await firstDelta(service, subscriber))
    }
    const warm: number[] = []
    for (let n = 0; n < WARM_TASKS; n++) warm.push(await firstDelta(service, subscriber))
    await subscriber.dispose()
    const [p50, p99] = [percentile(warm, 0.5), percentile(warm, 0.99)]
    const ratio = median(cold) / p50
    report({
      name: 'task on a warm session, answer of submitTask to first delta, p50',
      value: p50,
      unit: 'ms',
      ratio,
      note: `to it of the cold start of the same preset, ${Math.round(median(cold))} ms (median of ${COLD_STARTS}); ${WARM_TASKS} tasks, one after the other`,
      goal: { text: '<= 10 ms, cold start >= 20 times', met: p50 <= 10 && ratio >= 20 },
    })
    report({
      name: 'task on a warm session, answer of submitTask to first delta, p99',
      value: p99,
      unit: 'ms',
      ratio: null,
      note: `most ${Math.round(percentile(warm, 1))} ms`,
    })
  },
}

const SESSIONS = 4
const TASKS = 1_000
const CLIENTS = 20
const BATCH = 10
const SEQUENTIAL = 100

export const warmThroughput: Bench = {
  presets: { warm: session({ max_workers: SESSIONS, prewarm: SESSIONS, pinned: true }) },
  async run(service, report) {
    await sessionsReady(service, SESSIONS)
    const subscriber = openSubscriber(service)
    let begin = performance.now()
    for (let n = 0; n < SEQUENTIAL; n++) await firstDelta(service, subscriber)
    const alone = (SEQUENTIAL / (performance.now() - begin)) * 1_000
    await subscriber.dispose()

    let done = SEQUENTIAL
    const through = async (how: string, submit: () => Promise<void>): Promise<Row> => {
      begin = performance.now()
      await Promise.all(Array.from({ length: CLIENTS }, submit))
      const submitted = performance.now() - begin
      while ((await count(service, ['QUEUED', 'STARTING', 'RUNNING'])) > 0) await delay(50)
      const rate = (TASKS / (performance.now() - begin)) * 1_000
      done += TASKS
      const completed = await count(service, ['COMPLETED'])
      if (completed !== done) throw new Error(`warmThroughput: ${completed} completed`)
      return {
        name: `${TASKS} tasks through ${SESSIONS} warm sessions, submit to stored end, ${how}`,
        value: rate,
        unit: 'tasks/s',
        ratio: rate / alone,
        note: `of one task after the other, ${Math.round(alone)} tasks/s; ${CLIENTS} clients, the last answer after ${Math.round(submitted)} ms`,
      }
    }
    const batched = await through(`submitTasks of ${BATCH}`, async () => {
      for (let n = 0; n < TASKS / CLIENTS / BATCH; n++) await submitBatch(service)
    })
    report({ ...batched, goal: { text: '>= 200 tasks/s', met: batched.value >= 200 } })
    const single = await through('one submitTask each', async () => {
      for (let n = 0; n < TASKS / CLIENTS; n++) await service.submit('warm', INPUT)
    })
    report(single)
  },
}

async function submitBatch(service: TestService): Promise<void> {
  const inputs = Array.from({ length: BATCH }, () => ({ presetId: 'test/warm', ...INPUT }))
  const { submitTasks } = await service.query<{ submitTasks: { __typename: string } }>(
    'mutation ($inputs: [SubmitTaskInput!]!) { submitTasks(inputs: $inputs) { __typename } }',
    { inputs },
  )
  if (submitTasks.__typename !== 'SubmitTasksSuccess') throw new Error(JSON.stringify(submitTasks))
}

/** A client whose socket is open before it is needed, and stays so. */
function openSubscriber(service: TestService): Client {
  return createClient({
    url: service.url.replace('http:', 'ws:'),
    webSocketImpl: WebSocket,
    retryAttempts: 0,
    lazy: false,
  })
}

interface Deltas {
  readonly taskEvents: { readonly events: readonly { readonly delta?: string }[] }
}

/** Submits a task and gives the time from the answer to the first delta at a subscriber, once the task has ended. */
async function firstDelta(service: TestService, subscriber: Client): Promise<number> {
  const id = await service.submit('warm', INPUT)
  const begin = performance.now()
  let tookMs: number | null = null
  const query =
    'subscription ($id: ID!) { taskEvents(taskId: $id) { events { ... on TextDeltaEvent { delta } } } }'
  for await (const { data } of subscriber.iterate<Deltas>({ query, variables: { id } })) {
    if (tookMs === null && data?.taskEvents.events.some(({ delta }) => delta !== undefined)) {
      tookMs = performance.now() - begin
    }
  }
  if (tookMs === null) throw new Error(`task ${id} said nothing: ${JSON.stringify(await service.task(id))}`)
  return tookMs
}

interface WorkerChange {
  readonly workerUpdated: { readonly id: string; readonly status: string }
}
const WORKERS = 'subscription { workerUpdated { id status } }'

/** Ends the one session worker and waits until it is gone. */
async function endSession(service: TestService): Promise<void> {
  for await (const { workerUpdated } of service.subscribe<WorkerChange>(WORKERS)) {
    const { id, status } = workerUpdated
    if (status === 'EXITED') return
    if (status === 'READY') {
      await service.query('mutation ($id: ID!) { endSession(id: $id) { __typename } }', { id })
    }
  }
}

async function sessionsReady(service: TestService, wanted: number): Promise<void> {
  const ready = new Set<string>()
  for await (const { workerUpdated } of service.subscribe<WorkerChange>(WORKERS)) {
    if (workerUpdated.status === 'READY') ready.add(workerUpdated.id)
    if (ready.size === wanted) return
  }
}

async function count(service: TestService, status: readonly string[]): Promise<number> {
  const { tasks } = await service.query<{ tasks: { totalCount: number } }>(
    'query ($status: [TaskStatus!]) { tasks(filter: { status: $status }, first: 1) { totalCount } }',
    { status },
  )
  return tasks.totalCount
}
