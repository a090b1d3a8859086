/** What came of looking at one thing. */
export type Examination =
  | { readonly status: 'well' | 'not-looked-at'; readonly name: string; readonly what: string }
  | { readonly status: 'wrong'; readonly name: string; readonly what: string; readonly mend: string }

const MARKS = { well: '✓', wrong: '✗', 'not-looked-at': '-' } as const

/** An examination as people read it. */
export function examinationText(examination: Examination): string {
  const { status, name, what } = examination
  const head = `${MARKS[status]} ${name}: ${what}`
  return examination.status === 'wrong' ? `${head}\n    ${examination.mend}` : head
}

export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
