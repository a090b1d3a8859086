import { createInterface } from 'node:readline'
import type { Readable } from 'node:stream'
import { filesIn, type TaskFile } from './files.ts'
import { isObject, type JsonValue } from './json.ts'
import { note } from './note.ts'

/** What the service says to a session worker. */
export type Command =
  | {
      readonly kind: 'run'
      readonly taskId: string
      readonly input: JsonValue
      readonly files: readonly TaskFile[]
      readonly previous: readonly TaskFile[]
      readonly outputDir: string | null
    }
  | { readonly kind: 'cancel'; readonly taskId: string }
  | { readonly kind: 'shutdown' }

/** The commands on a stream, to its end or until `signal` is aborted. What it does not know is passed over. */
export async function* readCommands(stream: Readable, signal: AbortSignal): AsyncGenerator<Command, void> {
  for await (const line of createInterface({ input: stream, crlfDelay: Infinity, signal })) {
    if (line.trim() === '') continue
    const command = parse(line)
    if (command === 'broken') note(`not a command: ${line.slice(0, 200)}`)
    else if (command !== 'unknown') yield command
  }
}

function parse(line: string): Command | 'unknown' | 'broken' {
  let fields: unknown
  try {
    fields = JSON.parse(line)
  } catch {
    return 'broken'
  }
  if (!isObject(fields)) return 'broken'
  const { command, task_id: taskId, input = null, output_dir: outputDir } = fields
  if (command === 'shutdown') return { kind: 'shutdown' }
  if (command !== 'run' && command !== 'cancel') return 'unknown'
  if (typeof taskId !== 'string') return 'broken'
  if (command === 'cancel') return { kind: 'cancel', taskId }
  return {
    kind: 'run',
    taskId,
    input,
    files: filesIn(fields['input_dir'], fields['files']),
    previous: filesIn(fields['previous_dir'], fields['previous_files']),
    outputDir: typeof outputDir === 'string' ? outputDir : null,
  }
}
