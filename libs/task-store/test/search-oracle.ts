// A history as plain objects, and what a list of it must give: everything is looked at, one task after the other.

import { isFinal, type TaskFilter, type TaskStatus } from '@gpu-service/tasks'

/** What lists look at of a task. */
export interface Known {
  readonly n: number
  readonly id: string
  readonly owner: string
  readonly presetId: string
  readonly labels: Readonly<Record<string, string>>
  /** The texts of its input. */
  readonly input: readonly string[]
  readonly createdAt: number
  readonly status: TaskStatus
  readonly output: string
  readonly error: string
}

/** The numbers of those that match, newest first; `history` is in the order of creation. */
export function expected(history: readonly Known[], filter: TaskFilter): readonly number[] {
  const matching = history.filter((task) => matches(task, filter)).reverse()
  // The sort is stable.
  return matching.sort((a, b) => b.createdAt - a.createdAt).map(({ n }) => n)
}

function matches(task: Known, filter: TaskFilter): boolean {
  const { id, status, presetId, presets, owner, createdAfter, createdBefore, label, text } = filter
  if (id !== undefined && task.id !== id) return false
  if (status !== undefined && !status.includes(task.status)) return false
  if (presetId !== undefined && task.presetId !== presetId) return false
  if (presets !== undefined && !presets.some((preset) => preset === task.presetId)) return false
  if (owner !== undefined && task.owner !== owner && !task.owner.startsWith(`${owner}/`)) return false
  if (createdAfter !== undefined && task.createdAt <= createdAfter) return false
  if (createdBefore !== undefined && task.createdAt >= createdBefore) return false
  if (label !== undefined) {
    const value = task.labels[label.key]
    if (value === undefined || (label.value !== null && label.value !== value)) return false
  }
  return text === undefined || hasWords(task, text)
}

function hasWords(task: Known, text: string): boolean {
  const { presetId, input, status, output, error } = task
  const words = new Set(
    [presetId, ...input, ...(isFinal(status) ? [output, error] : [])].flatMap(splitIntoWords),
  )
  const parts = text.split(/\s+/).filter((part) => splitIntoWords(part).length > 0)
  const isStartOfId = (part: string) =>
    part.length >= 8 &&
    !part.startsWith('-') &&
    task.id.replaceAll('-', '').startsWith(part.replaceAll('-', '').toLowerCase())
  return (
    parts.length > 0 &&
    parts.every((part) => isStartOfId(part) || splitIntoWords(part).every((word) => words.has(word)))
  )
}

/** Character by character. */
export function splitIntoWords(text: string): readonly string[] {
  const words: string[] = []
  let word = ''
  for (const character of text.normalize('NFKC').toUpperCase().toLowerCase()) {
    const isAlone = /\p{sc=Han}|\p{sc=Hira}|\p{sc=Kana}|\p{sc=Thai}/u.test(character)
    if (!isAlone && /\p{L}|\p{M}|\p{N}/u.test(character)) {
      word += character
      continue
    }
    words.push(word)
    word = ''
    if (isAlone) words.push(character)
  }
  return [...words, word].filter((one) => one !== '').map((one) => one.slice(0, 64))
}
