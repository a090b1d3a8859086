import { BUSYBOX_IMAGE, testEngine } from '@gpu-service/test-engine'
import type { PresetSource, SeenEvent, TestService } from './service.ts'

/** Without an engine the tests that need one are skipped, which the run says aloud. */
export const noDocker = testEngine() === null

export const RUNNERS = [
  { runner: 'docker', skipped: noDocker },
  { runner: 'process', skipped: false },
] as const

/** A preset whose worker is a shell script, in a container and as a process alike. */
export function script(lines: string, more: PresetSource = {}): PresetSource {
  const command = ['sh', '-c', lines]
  return { docker_image: BUSYBOX_IMAGE, command, local: command, gpus: { count: 0 }, ...more }
}

export const CONNECTED = `echo '{"event":"connection","status":"connected"}'`
export const FINISHED = `echo '{"event":"finish","status":"completed"}'`
export const say = (delta: string): string => `echo '{"event":"text_delta","delta":"${delta}"}'`

/** `0 `, `1 `, … as the counting workers print them, on both streams. */
export const numbersTo = (count: number): string[] => Array.from({ length: count }, (_, i) => `${i} `)

/** The loop of a worker that prints so many events and, beside each, a line on stderr; `more` goes into each event. */
const counting = (lines: number, more: string, pauseMs: number): string =>
  `i=0; while [ $i -lt ${lines} ]; do echo "{\\"event\\":\\"text_delta\\",\\"delta\\":\\"$i \\"${more}}"; echo "$i " >&2; i=$((i+1)); usleep ${pauseMs * 1_000}; done`

export interface CountingOptions {
  /** With its own count of its events. */
  readonly isNumbered?: boolean
  readonly pauseMs?: number
}

/** A worker that counts on both streams. */
export function countingScript(
  lines: number,
  more: PresetSource = {},
  { isNumbered = false, pauseMs = 1 }: CountingOptions = {},
): PresetSource {
  if (!isNumbered) return script(`${counting(lines, '', pauseMs)}; ${FINISHED}`, more)
  const finished = `echo "{\\"event\\":\\"finish\\",\\"status\\":\\"completed\\",\\"seq\\":$((i+1))}"`
  return script(`${counting(lines, ',\\"seq\\":$((i+1))', pauseMs)}; ${finished}`, more)
}

/** The same as a session worker, for each of its tasks. */
export function countingSession(
  lines: number,
  more: PresetSource = {},
  { pauseMs = 1 }: Pick<CountingOptions, 'pauseMs'> = {},
): PresetSource {
  const named = ',\\"task_id\\":\\"$id\\"'
  const run = `${counting(lines, named, pauseMs)}; echo "{\\"event\\":\\"finish\\",\\"status\\":\\"completed\\"${named}}"`
  return script(
    `echo '{"event":"worker","status":"ready"}'
     while read -r line; do case "$line" in
       *'"command":"run"'*) id=\${line#*\\"task_id\\":\\"}; id=\${id%%\\"*}; ${run};;
       *'"command":"shutdown"'*) exit 0;;
     esac; done`,
    { mode: 'session', ...more },
  )
}

export function deltasOf(events: readonly SeenEvent[]): string[] {
  return events.flatMap((event) => (event.__typename === 'TextDeltaEvent' ? [String(event['delta'])] : []))
}

export function stderrOf(events: readonly SeenEvent[]): string[] {
  return events.flatMap((event) =>
    event.__typename === 'LogEvent' && event['stream'] === 'STDERR' ? [String(event['line'])] : [],
  )
}

/** What the readiness says of the runner. */
export async function runnerCheck({ url }: TestService): Promise<{ ok: boolean; detail: string }> {
  const answer = await fetch(new URL('/readyz', url))
  const { checks } = (await answer.json()) as { checks: { runner: { ok: boolean; detail: string } } }
  return checks.runner
}
