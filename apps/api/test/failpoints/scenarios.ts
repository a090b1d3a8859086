import { CONNECTED, FINISHED, script } from '../e2e/scripts.ts'
import type { PresetSource } from '../e2e/service.ts'
import type { Lane } from './lane.ts'
import type { Failpoint } from './protocol.ts'

/** What a walk must come to, whatever is cut on its way; `null`: that does not matter. */
export interface Walked {
  readonly status: string | null
  readonly maxAttempts: number
  readonly text: string | null
  readonly artifacts: number
}

/** A way that a task can go. */
export interface Scenario {
  readonly name: string
  /** What must be there before it, and what must not: a start that finds a session takes other steps than one that finds none. */
  readonly prepare: (lane: Lane) => Promise<void>
  /**
   * What a client does, up to the moment at which nothing is left to do for the service. It can be cut off at any moment and be begun anew,
   * as a client does: it submits under the same key.
   */
  readonly walk: (lane: Lane, key: string) => Promise<string>
  readonly comesTo: Walked
  /** Its events are compacted, in however few commits they were stored. */
  readonly isCompacted?: true
  /** Where a service is killed that leaves it to the next start; without one, nowhere. */
  readonly leftAt?: Pick<Failpoint, 'step' | 'side'>
}

const LINES = Array.from({ length: 12 }, (_, n) => `${n} `)
export const WHOLE_TEXT = LINES.join('')

/** Leaves a mark that outlives the worker, whoever asks. */
const MARK = 'mark() { echo "$*" >> "$MARKS"; }; mark start "$TASK_ID";'
const SAY_ALL = `i=0; while [ $i -lt ${LINES.length} ]; do echo "{\\"event\\":\\"text_delta\\",\\"delta\\":\\"$i \\"}"; echo "err $i" >&2; i=$((i+1)); sleep 0.01; done`

/** A session worker as a shell script: it does its task at once, or, with the input `{"endless": true}`, when it is asked to stop it. */
const SESSION_SCRIPT = `mark() { echo "$*" >> "$MARKS"; }
say() { printf '{"event":%s,"task_id":"%s"}\\n' "$1" "$id"; }
mark session
echo '{"event":"worker","status":"ready"}'
while read -r line; do
  case $line in
    *'"command":"run"'*)
      id=\${line#*'"task_id":"'}; id=\${id%%'"'*}
      mark run "$id"
      say '"worker","status":"working"'
      case $line in *'"endless":true'*) continue ;; esac
      i=0
      while [ $i -lt ${LINES.length} ]; do say "\\"text_delta\\",\\"delta\\":\\"$i \\""; i=$((i+1)); sleep 0.01; done
      say '"finish","status":"completed"' ;;
    *'"command":"cancel"'*) say '"finish","status":"cancelled"' ;;
    *'"command":"shutdown"'*) exit 0 ;;
  esac
done`

/** The presets of the scenarios. `marks` is where workers leave their marks, `more` what they need for it. */
export function presetsOf({
  marks,
  ...more
}: PresetSource & { readonly marks: string }): Readonly<Record<string, PresetSource>> {
  const preset = (lines: string, own: PresetSource = {}): PresetSource =>
    script(lines, { ...more, env_vars: { MARKS: marks }, ...own })
  const session = {
    mode: 'session',
    timeouts: { acknowledge: '2s', stop_grace: '1s' },
    session: { idle: '10m' },
    retry: { max_attempts: 4, backoff: '0s' },
  }
  return {
    plain: preset(`${MARK} ${CONNECTED}; ${SAY_ALL}; ${FINISHED}`),
    endless: preset(`${MARK} ${CONNECTED}; trap 'exit 0' TERM; while :; do sleep 0.05; done`, {
      gpus: { count: 1 },
      timeouts: { stop_grace: '2s' },
    }),
    failing: preset(`${MARK} ${CONNECTED}; case $TASK_ID in *.1) exit 3 ;; esac; ${SAY_ALL}; ${FINISHED}`, {
      retry: { max_attempts: 2, backoff: '0s', on: ['worker_failed'] },
    }),
    file: preset(
      `${MARK} ${CONNECTED}; echo bytes > "$OUTPUT_DIR/a.txt"; echo '{"event":"artifact","path":"a.txt"}'; ${SAY_ALL}; ${FINISHED}`,
    ),
    session: preset(SESSION_SCRIPT, session),
  }
}

const completed: Walked = { status: 'COMPLETED', maxAttempts: 1, text: WHOLE_TEXT, artifacts: 0 }
const cancelled: Walked = { ...completed, status: 'CANCELLED', text: null }

const cold: Scenario['prepare'] = (lane) => lane.endSessions()
const warm: Scenario['prepare'] = (lane) => lane.warm()

async function oneOff(lane: Lane, kind: string, key: string): Promise<string> {
  const id = await lane.submit(kind, key)
  await lane.service.events(id)
  await lane.idle()
  return id
}

export const SCENARIOS: readonly Scenario[] = [
  {
    name: 'a one-off task',
    prepare: cold,
    walk: (lane, key) => oneOff(lane, 'plain', key),
    comesTo: completed,
    leftAt: { step: 'store.claim', side: 'after' },
  },
  {
    name: 'a task of a session that is cold, and the end of the session',
    prepare: cold,
    async walk(lane, key) {
      const id = await lane.submit('session', key)
      await lane.service.events(id)
      await lane.endSessions()
      return id
    },
    comesTo: { ...completed, maxAttempts: 4 },
  },
  {
    name: 'a task of a session that is warm',
    prepare: warm,
    async walk(lane, key) {
      const id = await lane.submit('session', key)
      await lane.service.events(id)
      return id
    },
    comesTo: { ...completed, maxAttempts: 4 },
  },
  {
    name: 'a session that a client asks for and ends, though no task asks for it',
    prepare: cold,
    async walk(lane, key) {
      await lane.warm()
      await lane.endSessions()
      return oneOff(lane, 'plain', key)
    },
    comesTo: completed,
  },
  {
    name: 'a one-off task that is cancelled and gives its GPU back',
    prepare: cold,
    async walk(lane, key) {
      const id = await lane.submit('endless', key)
      await lane.service.reached(id, 'RUNNING')
      await lane.service.cancel(id)
      await lane.service.events(id)
      await lane.idle()
      return id
    },
    comesTo: cancelled,
    leftAt: { step: 'store.requestCancel', side: 'after' },
  },
  {
    name: 'a task that is cancelled in its session',
    prepare: warm,
    async walk(lane, key) {
      const id = await lane.submit('session', key, { endless: true })
      await lane.service.reached(id, 'RUNNING')
      await lane.service.cancel(id)
      await lane.service.events(id)
      return id
    },
    comesTo: { ...cancelled, maxAttempts: 4 },
    leftAt: { step: 'store.requestCancel', side: 'before' },
  },
  {
    name: 'a task that fails and is tried again',
    prepare: cold,
    walk: (lane, key) => oneOff(lane, 'failing', key),
    comesTo: { ...completed, maxAttempts: 2 },
    isCompacted: true,
    leftAt: { step: 'store.append requeue', side: 'after' },
  },
  {
    name: 'a task with an artifact',
    prepare: cold,
    walk: (lane, key) => oneOff(lane, 'file', key),
    comesTo: { ...completed, artifacts: 1 },
    leftAt: { step: 'store.append settle', side: 'after' },
  },
]
