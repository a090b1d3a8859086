import type { PresetIssue, SecretReference } from '@gpu-service/tasks'

/** A place in the file; lines and columns count from 1. */
export interface Position {
  readonly line: number
  readonly column: number
}

/** Collects what is wrong with a file. */
export interface Report {
  add(at: Position, message: string): void
  /** How often `add` was called. */
  readonly count: number
  has(at: Position): boolean
  /** Notes a path of the host that has to be looked for once the file has been read. */
  lookFor(hostPath: HostPath): void
  /** Notes the source of a secret; whether it is allowed has to be looked up once the file has been read. */
  lookForSecret(source: SecretPlace): void
}

export interface HostPath {
  readonly path: string
  readonly keyPath: string
  readonly at: Position
}

export interface SecretPlace extends Omit<SecretReference, 'name'> {
  readonly keyPath: string
  readonly at: Position
}

/** A report of at most this many issues; what comes after them is dropped and said to be. */
const MAX_ISSUES = 100
const MAX_MESSAGE = 600

export interface FileReport extends Report {
  readonly hostPaths: readonly HostPath[]
  readonly secretSources: readonly SecretPlace[]
  /** The issues in the order of the file, one per place and message. */
  issues(): readonly PresetIssue[]
}

export function createFileReport(file: string): FileReport {
  const found: PresetIssue[] = []
  const seen = new Set<string>()
  const hostPaths: HostPath[] = []
  const secretSources: SecretPlace[] = []
  let count = 0
  let dropped = 0
  return {
    hostPaths,
    secretSources,
    has: (at) => found.some((issue) => issue.line === at.line && issue.column === at.column),
    lookFor(hostPath) {
      hostPaths.push(hostPath)
    },
    lookForSecret(source) {
      secretSources.push(source)
    },
    add(at, message) {
      count++
      const key = `${at.line}:${at.column}:${message}`
      if (seen.has(key)) return
      if (found.length === MAX_ISSUES) {
        dropped++
        return
      }
      seen.add(key)
      found.push({ file, line: at.line, column: at.column, message: cut(message, MAX_MESSAGE) })
    },
    get count() {
      return count
    },
    issues() {
      const sorted = found.toSorted((a, b) => a.line - b.line || a.column - b.column)
      const last = sorted.at(-1)
      if (dropped === 0 || last === undefined) return sorted
      return sorted.with(-1, {
        ...last,
        message: `${last.message} (and ${dropped} more problems in the file)`,
      })
    },
  }
}

/** An issue as compilers print it: `file:line:column: message`. */
export function presetIssueText(issue: PresetIssue): string {
  return `${issue.file}:${issue.line}:${issue.column}: ${issue.message}`
}

/** A text of the file as a message may show it: quoted, on one line, cut. */
export function quoted(text: string): string {
  return JSON.stringify(cut(text, 60))
}

/** The path of a key in a mapping, such as `models.test-loading.inference`; `''` is the path of the whole file. */
export function keyPath(path: string, key: string): string {
  const name = /^[\w$-]+$/.test(key) ? key : quoted(key)
  return path === '' ? name : `${path}.${name}`
}

function cut(text: string, length: number): string {
  return text.length <= length ? text : `${text.slice(0, length)}…`
}
