import type { AuditTarget, NewAuditEntry, TextMap } from '@gpu-service/tasks'
import { GraphQLError } from 'graphql'
import type { Context } from './context.ts'
import type { MutationResolvers } from './generated/resolvers.ts'

/** How the audit log tells of a mutation. */
interface Telling {
  readonly action: string
  readonly target: (args: Args) => AuditTarget
  /** `elsewhere`: what it does is recorded where it is stored, and here only what is refused. */
  readonly done: 'elsewhere' | 'here'
}

/** Of a mutation; what clients give is cut where it is stored. */
interface Args {
  readonly id?: string
  readonly presetId?: string
  readonly reason?: string | null
  readonly input?: Partial<
    Readonly<Record<'presetId' | 'taskId' | 'name' | 'owner' | 'role' | 'subject', string | null>>
  >
}

const NO_TASK: AuditTarget = { kind: 'task', id: null }
const task = ({ id = null }: { readonly id?: string | null }): AuditTarget => ({ kind: 'task', id })
const worker = ({ id = null }: { readonly id?: string | null }): AuditTarget => ({ kind: 'worker', id })
const key = ({ id = null }: { readonly id?: string | null }): AuditTarget => ({ kind: 'key', id })
const gpu = ({ id = null }: { readonly id?: string | null }): AuditTarget => ({ kind: 'gpu', id })

/** A new mutation does not compile until it says how it is told of. */
const TELLINGS: { readonly [M in Exclude<keyof MutationResolvers, '__isTypeOf'>]-?: Telling } = {
  submitTask: { action: 'task.submit', target: () => NO_TASK, done: 'elsewhere' },
  submitTasks: { action: 'task.submit', target: () => NO_TASK, done: 'elsewhere' },
  retryTask: { action: 'task.retry', target: task, done: 'elsewhere' },
  deleteTask: { action: 'task.remove', target: task, done: 'elsewhere' },
  cancelTask: { action: 'task.cancel', target: task, done: 'elsewhere' },
  cancelTasks: { action: 'tasks.cancel', target: () => NO_TASK, done: 'here' },
  startSession: { action: 'worker.start', target: () => worker({}), done: 'elsewhere' },
  endSession: { action: 'worker.end', target: worker, done: 'elsewhere' },
  drainGpu: { action: 'gpu.drain', target: gpu, done: 'elsewhere' },
  enableGpu: { action: 'gpu.enable', target: gpu, done: 'elsewhere' },
  simulateGpu: { action: 'gpu.simulate', target: gpu, done: 'here' },
  createApiKey: { action: 'key.create', target: () => key({}), done: 'elsewhere' },
  revokeApiKey: { action: 'key.revoke', target: key, done: 'elsewhere' },
  setApiKeyLimits: { action: 'key.limit', target: key, done: 'elsewhere' },
  createBrowserToken: { action: 'token.create', target: () => key({}), done: 'here' },
  reloadPresets: { action: 'presets.reload', target: () => ({ kind: 'presets', id: null }), done: 'here' },
}

/** A mutation by its name, as the audit log tells of one whose arguments nobody has looked at. */
export function actionOf(mutation: string): {
  readonly action: string
  readonly target: AuditTarget['kind']
} {
  const { action, target } = TELLINGS[mutation as keyof typeof TELLINGS]
  return { action, target: target({}).kind }
}

type Resolve = (parent: unknown, args: Args, context: Context, info: unknown) => unknown

/**
 * The mutations, with an entry in the audit log for what is refused, repeated without effect, or done outside the store. The answer is given
 * when the entry is stored; where it cannot be stored, the mutation fails.
 */
export function audited<M extends object>(mutations: M): M {
  const resolvers = Object.entries(mutations as Record<keyof typeof TELLINGS, Resolve>).map(
    ([name, resolve]) => [name, withEntry(TELLINGS[name as keyof typeof TELLINGS], resolve)],
  )
  return Object.fromEntries(resolvers) as M
}

function withEntry({ action, target, done }: Telling, resolve: Resolve): Resolve {
  return async (parent, args, context, info) => {
    const { store, actor } = context
    const entry: Omit<NewAuditEntry, 'result'> = {
      ...{ actor, action, target: target(args), status: null, reason: args.reason ?? null },
      details: detailsOf(args),
    }
    let answer: Answer
    try {
      answer = (await resolve(parent, args, context, info)) as Answer
    } catch (error) {
      // Where the database is what failed, this fails too, and what is told is the first failure.
      await store.recordAudit([{ ...entry, result: codeOf(error) }]).catch(() => undefined)
      throw error
    }
    const problem = problemOf(answer)
    const entries = duplicatesIn(answer).map((id) => ({
      ...entry,
      target: task({ id }),
      result: 'DUPLICATE',
    }))
    if (problem !== null) entries.push({ ...entry, result: problem })
    else if (done === 'here') entries.push({ ...entry, result: 'OK' })
    if (entries.length > 0) await store.recordAudit(entries)
    return answer
  }
}

/** What is looked at of what mutations give. */
interface Answer {
  readonly __typename?: string
  readonly code?: string
  readonly duplicate?: boolean
  readonly task?: { readonly id: string }
  readonly tasks?: readonly { readonly duplicate: boolean; readonly task: { readonly id: string } }[]
}

const DETAILS = ['presetId', 'taskId', 'name', 'owner', 'role', 'subject'] as const

function detailsOf({ presetId, input }: Args): TextMap {
  const given = { ...input, ...(presetId !== undefined && { presetId }) }
  return Object.fromEntries(DETAILS.flatMap((name) => (given[name] == null ? [] : [[name, given[name]]])))
}

/** `null`: it was not refused. Of a refusal its code, of any other problem its name: UnknownTaskProblem is UNKNOWN_TASK. */
function problemOf({ __typename = '', code }: Answer): string | null {
  const [, name] = /^(\w+)Problem$/.exec(__typename) ?? []
  if (name === undefined) return null
  return code ?? name.replace(/(?<=[a-z])(?=[A-Z])/g, '_').toUpperCase()
}

/** Submissions that were made before under their keys: nothing was stored. */
function duplicatesIn({ duplicate, task: one, tasks }: Answer): readonly string[] {
  if (duplicate === true && one !== undefined) return [one.id]
  return (tasks ?? []).filter((submitted) => submitted.duplicate).map((submitted) => submitted.task.id)
}

function codeOf(error: unknown): string {
  const code = error instanceof GraphQLError ? error.extensions['code'] : undefined
  return typeof code === 'string' ? code : 'FAILED'
}
