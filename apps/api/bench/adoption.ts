import { readFile } from 'node:fs/promises'
import { setTimeout as delay } from 'node:timers/promises'
import { CONNECTED, script } from '../test/e2e/scripts.ts'
import type { TestService } from '../test/e2e/service.ts'
import { type Bench, percentile } from './row.ts'

const WORKERS = 100
const LINES = 10_000
const LINE = '{"event":"text_delta","delta":"token 1234 "}'

const PAUSE_S = 2

/** Prints its lines at once, then one after each pause, for as long as it is let. */
const TALKER = `${CONNECTED}; yes '${LINE}' | head -n ${LINES}; while :; do sleep ${PAUSE_S}; echo '${LINE}'; done`

interface Progress {
  readonly taskEvents: { readonly events: readonly { readonly seq: number }[] }
}

/** Workers of a service that was killed, each with a long log, are read on by the next one. */
export const adoption: Bench = {
  presets: { talker: script(TALKER, { timeouts: { stop_grace: '1s' } }) },
  async run(service, report) {
    const ids = await Promise.all(Array.from({ length: WORKERS }, () => service.submit('talker')))
    await Promise.all(ids.map((id) => reached(service, id, LINES)))
    const before = new Map(
      await Promise.all(ids.map(async (id) => [id, await lastSeqOf(service, id)] as const)),
    )
    await service.down('SIGKILL')
    // Each says two lines meanwhile, of which the killed service has seen none: what comes to it later is not waited for.
    await delay(2 * PAUSE_S * 1_000 + 1_000)
    const begin = performance.now()
    await service.up()
    const readyMs = performance.now() - begin
    const last = new Map<string, number>()
    await Promise.all(
      ids.map(async (id) => {
        await reached(service, id, (before.get(id) ?? 0) + 2)
        last.set(id, performance.now() - begin)
      }),
    )
    const cpu = await cpuSeconds(service.pid)
    const times = [...last.values()]
    const all = percentile(times, 1)
    report({
      name: `${WORKERS} containers with logs of ${LINES} lines, start of the service to the last one read on`,
      value: all,
      unit: 'ms',
      ratio: all / readyMs,
      note: `to the service's own start, ${Math.round(readyMs)} ms; the median worker after ${Math.round(percentile(times, 0.5))} ms; ${cpu.toFixed(1)} s of CPU in the service`,
      goal: { text: '<= 3000 ms', met: all <= 3_000 },
    })
    await service.query('mutation { cancelTasks(filter: { presetId: "test/talker" }) { __typename } }')
    await Promise.all(ids.map((id) => service.events(id, last.size)))
  },
}

/** What the process has used so far, in all its threads. */
async function cpuSeconds(pid: number): Promise<number> {
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8')
  // The fields behind the program's name, which may hold anything: user and system time are the 12th and 13th, in hundredths of a second.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  return (Number(fields[11]) + Number(fields[12])) / 100
}

async function lastSeqOf(service: TestService, id: string): Promise<number> {
  const { task } = await service.query<{ task: { lastSeq: number } }>(
    'query ($id: ID!) { task(id: $id) { lastSeq } }',
    { id },
  )
  return task.lastSeq
}

/** Waits until the task has this many events. */
async function reached(service: TestService, id: string, seq: number): Promise<void> {
  const query =
    'subscription ($id: ID!, $after: Int!) { taskEvents(taskId: $id, after: $after) { events { seq } } }'
  const lastSeq = await lastSeqOf(service, id)
  if (lastSeq >= seq) return
  for await (const { taskEvents } of service.subscribe<Progress>(query, { id, after: lastSeq })) {
    if (taskEvents.events.some((event) => event.seq >= seq)) return
  }
  throw new Error(`task ${id} ended before its event ${seq}`)
}
