import {
  problemOfFileName,
  type AskedFile,
  type InputIssue,
  type JsonValue,
  type Principal,
  type SubmitRequest,
  type TextMap,
} from '@gpu-service/tasks'
import type { SubmitTaskInput, TaskFileInput } from './generated/resolvers.ts'

const MAX_LABELS = 32
const MAX_LABEL_KEY = 64
const MAX_LABEL_VALUE = 256
const MAX_KEY = 200
const MAX_PRIORITY = 1_000_000
const MAX_FILES = 32
const MAX_ISSUES = 20

/** A submission that can be passed on, or all that is wrong with it; at least one issue, in a bounded number. */
export type Submission =
  | { readonly status: 'parsed'; readonly request: SubmitRequest }
  | { readonly status: 'invalid'; readonly issues: readonly InputIssue[] }

/**
 * Parses what neither GraphQL nor the preset checks of a submission: whether its texts can be stored, and the shape of labels. All issues at
 * once, in a bounded number; the input's have a JSON Pointer into the input as their path, others the name of their argument.
 */
export function parseSubmission(
  input: SubmitTaskInput,
  { owner, keyId }: Pick<Principal, 'owner' | 'keyId'>,
): Submission {
  const issues: InputIssue[] = []
  const issue = (path: string, message: string): void => {
    issues.push({ path, message })
  }
  const body: JsonValue = input.input ?? null
  checkJson(body, issue)
  const labels = parseLabels(input.labels ?? {}, issue)
  const files = parseFiles(input.files ?? [], issue)
  for (const [name, value] of [
    ['idempotencyKey', input.idempotencyKey],
    ['affinity', input.affinity],
  ] as const) {
    if (typeof value !== 'string') continue
    if (value.length === 0 || value.length > MAX_KEY) issue(name, `must have 1 to ${MAX_KEY} characters`)
    if (!isStorable(value))
      issue(name, 'contains a character that cannot be stored (NUL or half a surrogate pair)')
  }
  const priority = input.priority ?? 0
  if (Math.abs(priority) > MAX_PRIORITY)
    issue('priority', `must lie between -${MAX_PRIORITY} and ${MAX_PRIORITY}`)
  if (issues.length > 0) return { status: 'invalid', issues: issues.slice(0, MAX_ISSUES) }
  return {
    status: 'parsed',
    request: {
      owner,
      keyId,
      presetId: input.presetId,
      privacy: input.privacy,
      input: body,
      priority,
      labels,
      idempotencyKey: input.idempotencyKey ?? null,
      affinity: input.affinity ?? null,
      timeoutMs: input.timeoutMs ?? null,
      gpuIds: input.gpuIds ?? null,
      files,
    },
  }
}

/** Parses all of them, or tells of the first that cannot be. */
export function parseSubmissions(
  inputs: readonly SubmitTaskInput[],
  from: Pick<Principal, 'owner' | 'keyId'>,
):
  | { readonly status: 'parsed'; readonly requests: readonly SubmitRequest[] }
  | { readonly status: 'invalid'; readonly index: number; readonly issues: readonly InputIssue[] } {
  const requests: SubmitRequest[] = []
  for (const [index, input] of inputs.entries()) {
    const parsed = parseSubmission(input, from)
    if (parsed.status === 'invalid') return { ...parsed, index }
    requests.push(parsed.request)
  }
  return { status: 'parsed', requests }
}

type Report = (path: string, message: string) => void

function parseLabels(value: JsonValue, issue: Report): TextMap {
  if (value === null || typeof value !== 'object' || Array.isArray(value)) {
    issue('labels', 'must be an object of texts')
    return {}
  }
  const entries = Object.entries(value)
  if (entries.length > MAX_LABELS) issue('labels', `has more than ${MAX_LABELS} labels`)
  return Object.fromEntries(
    entries.flatMap(([key, text]): [string, string][] => {
      const path = `labels.${key.slice(0, MAX_LABEL_KEY)}`
      if (key.length === 0 || key.length > MAX_LABEL_KEY || !isStorable(key)) {
        issue(path, `the label's name must have 1 to ${MAX_LABEL_KEY} characters`)
      } else if (typeof text !== 'string') {
        issue(path, 'must be a text')
      } else if (text.length > MAX_LABEL_VALUE || !isStorable(text)) {
        issue(path, `must be a text of at most ${MAX_LABEL_VALUE} characters, without NUL`)
      } else {
        return [[key, text]]
      }
      return []
    }),
  )
}

function parseFiles(inputs: readonly TaskFileInput[], issue: Report): readonly AskedFile[] {
  if (inputs.length > MAX_FILES) issue('files', `has more than ${MAX_FILES} files`)
  return inputs.slice(0, MAX_FILES).map(({ uploadId, name = null }, index) => {
    const problem = name === null ? null : problemOfFileName(name)
    if (problem !== null) issue(`files.${index}.name`, problem)
    return { uploadId, name }
  })
}

/** Breadth first: a deep value must not cost stack. */
function checkJson(root: JsonValue, issue: Report): void {
  let level: (readonly [string, JsonValue])[] = [['', root]]
  while (level.length > 0) {
    const next: (readonly [string, JsonValue])[] = []
    for (const [path, value] of level) {
      if (typeof value === 'string' && !isStorable(value)) {
        issue(path, 'contains a character that cannot be stored (NUL or half a surrogate pair)')
      } else if (typeof value === 'object' && value !== null) {
        for (const [key, inner] of Object.entries<JsonValue>(value)) {
          if (!isStorable(key))
            issue(path, 'has a key with a character that cannot be stored (NUL or half a surrogate pair)')
          next.push([`${path}/${key.replaceAll('~', '~0').replaceAll('/', '~1')}`, inner])
        }
      }
    }
    level = next
  }
}

function isStorable(text: string): boolean {
  return text.isWellFormed() && !text.includes('\0')
}
