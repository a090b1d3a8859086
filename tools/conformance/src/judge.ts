import { lstat } from 'node:fs/promises'
import { join, resolve, sep } from 'node:path'
import type { FaultKind, ProtocolFault } from '@gpu-service/event-parser'
import type { Hearing, Heard } from './hearing.ts'
import type { Notebook } from './notebook.ts'

const KNOWN_EVENTS = [
  ...['connection', 'worker', 'text_delta', 'text', 'finish'],
  ...['progress', 'result', 'artifact', 'usage', 'log'],
]
const SHOWN_LENGTH = 120
/** What came within this time came at once. */
const AT_ONCE_MS = 200

/** Looks at the lines that a worker has printed, whatever its tasks came to. */
export function judgeLines(notebook: Notebook, hearing: Hearing): void {
  for (const kind of new Set(hearing.faults.map((fault) => fault.kind)))
    judgeFaults(
      kind,
      hearing.faults.filter((fault) => fault.kind === kind),
    )
  const glued = hearing.strays.filter((line) => /[^]\{\s*"event"\s*:/.test(line))
  if (glued[0] !== undefined)
    notebook.find('GLUED_EVENT', `An event stands behind other text: ${shown(glued[0])}`)
  const strays = hearing.strays.filter((line) => !glued.includes(line))
  if (strays[0] !== undefined) {
    notebook.find('STRAY_OUTPUT', `What is no event is on standard output, first: ${shown(strays[0])}`)
  }
  const [first] = hearing.heard
  if (first !== undefined && first.event.type !== 'connection')
    notebook.find('NO_CONNECTION', `The first event is ${first.event.type}, not connection.`)
  for (const name of new Set(hearing.heard.map(customName))) {
    const meant = KNOWN_EVENTS.find((known) => name !== null && plain(known) === plain(name))
    if (meant !== undefined)
      notebook.find('MISNAMED_EVENT', `There is an event "${String(name)}": "${meant}" is meant, it seems.`)
  }
  judgeSeq(hearing.heard)

  function judgeFaults(kind: FaultKind, faults: readonly ProtocolFault[]): void {
    const [{ detail, line } = { detail: '', line: '' }] = faults
    notebook.find(kind, `${faults.length} of its lines: ${detail}: ${shown(line)}`)
  }

  function judgeSeq(heard: readonly Heard[]): void {
    if (heard.every(({ seq }) => seq === null)) {
      if (heard.length > 0) notebook.find('NO_SEQ', 'Its events are not counted.')
      return
    }
    // A line that could not be read may have had its number.
    const wrong = heard.findIndex(({ seq }, index) => seq !== index + 1)
    if (wrong >= 0 && hearing.faults.length === 0 && hearing.strays.length === 0) {
      const seq = heard[wrong]?.seq ?? null
      notebook.find('SEQ_BROKEN', `Its event ${wrong + 1} has ${seq === null ? 'no seq' : `the seq ${seq}`}.`)
    }
  }
}

/** Looks at whether events name the right tasks, and come before the finish of theirs. */
export function judgeTasks(notebook: Notebook, hearing: Hearing): void {
  const foreign = hearing.heard.find(({ named }) => named !== null && !hearing.given.has(named))
  if (foreign !== undefined)
    notebook.find(
      'FOREIGN_TASK',
      `A ${foreign.event.type} names the task "${String(foreign.named)}", which it was not given.`,
    )
  const [unnamed] = hearing.heard.filter(({ isAmbiguous }) => isAmbiguous)
  if (unnamed !== undefined)
    notebook.find(
      'UNNAMED_TASK',
      `While it had several tasks it said a ${unnamed.event.type} that names none.`,
    )
  const [late] = hearing.late
  if (late !== undefined)
    notebook.find('AFTER_FINISH', `After the finish of a task there was a ${late.event.type} of it.`)
}

/** Looks at what was said of one task. */
export async function judgeWork(
  notebook: Notebook,
  hearing: Hearing,
  { runId, folder, silenceMs }: { runId: string; folder: string; silenceMs: number },
): Promise<void> {
  const said = hearing.of(runId)
  const whole = said.findLast(({ event }) => event.type === 'text')?.event
  const deltas = said.flatMap(({ event }) => (event.type === 'text_delta' ? [event.delta] : []))
  if (whole?.type === 'text' && deltas.length > 0 && whole.content !== deltas.join(''))
    notebook.find('TEXT_DIFFERS', 'Its text is not what its text_delta say together.')
  for (const { event } of said)
    if (event.type === 'artifact' && event.source.kind === 'path') await judgeArtifact(event.source.path)
  const [first] = said
  const last = said.at(-1)
  const silentMs = (first?.at ?? 0) - (hearing.given.get(runId) ?? 0)
  if (first && last && silentMs >= silenceMs && last.at - first.at < AT_ONCE_MS) {
    notebook.find(
      'SILENT_UNTIL_END',
      `Nothing came for ${(silentMs / 1_000).toFixed(1)} s, then all ${said.length} events at once.`,
    )
  }

  async function judgeArtifact(path: string): Promise<void> {
    const file = resolve(folder, path)
    const isFile =
      file.startsWith(join(folder, sep)) && (await lstat(file).catch(() => null))?.isFile() === true
    if (!isFile)
      notebook.find('ARTIFACT_MISSING', `${shown(path)} is no file in the output folder of its task.`)
  }
}

function customName({ event }: Heard): string | null {
  return event.type === 'custom' ? event.name : null
}

function plain(name: string): string {
  return name.toLowerCase().replace(/[^a-z]/g, '')
}

function shown(line: string): string {
  return line.length > SHOWN_LENGTH ? `${line.slice(0, SHOWN_LENGTH)}…` : line
}
