/** What the suite asks of the service and reads of its answers. */

/** One event as a client sees it. */
export type SeenEvent = Readonly<Record<string, unknown>> & {
  readonly __typename: string
  readonly seq: number
  readonly attempt: number
  readonly at: string
  readonly taskStatus?: string
}

export interface SeenAttempt {
  readonly attempt: number
  readonly warm: boolean
  readonly startedAt: string
  readonly finishedAt: string | null
  readonly status: string | null
  readonly error: { readonly code: string; readonly message: string } | null
  readonly exitCode: number | null
  readonly workerId: string
}

export interface SeenTask {
  readonly id: string
  readonly status: string
  readonly attempt: number
  readonly text: string | null
  readonly exitCode: number | null
  readonly error: { readonly code: string; readonly message: string } | null
  readonly lastSeq: number
  readonly createdAt: string
  readonly finishedAt: string | null
  readonly cancelRequestedAt: string | null
  readonly explanation: string | null
  readonly artifacts: readonly { readonly name: string; readonly bytes: string }[]
  readonly attempts: readonly SeenAttempt[]
}

export interface SeenWorker {
  readonly id: string
  readonly status: string
  readonly mode: string
  /** With the process runner: its process id. */
  readonly containerId: string | null
}

export const FINAL: readonly string[] = ['COMPLETED', 'FAILED', 'CANCELLED', 'TIMED_OUT']

const TASK_FIELDS = `id status attempt text exitCode error { code message } lastSeq createdAt finishedAt cancelRequestedAt explanation
  artifacts { name bytes }
  attempts { attempt warm startedAt finishedAt status error { code message } exitCode workerId }`

const EVENT_FIELDS = `__typename seq at attempt
  ... on TaskStatusEvent { taskStatus reason } ... on ConnectionEvent { status } ... on WorkerEvent { status message progress }
  ... on TextDeltaEvent { delta } ... on TextEvent { content } ... on FinishEvent { status error { code message } }
  ... on ProgressEvent { completed total unit message } ... on ResultEvent { value }
  ... on ArtifactEvent { artifact { id name mediaType bytes sha256 url } } ... on UsageEvent { values }
  ... on LogEvent { stream level line } ... on CustomEvent { name payload }
  ... on ProtocolFaultEvent { kind line detail } ... on GapEvent { detail }`

export const EVENTS_SUBSCRIPTION = `subscription ($id: ID!, $after: Int!) {
  taskEvents(taskId: $id, after: $after) { events { ${EVENT_FIELDS} } } }`

export interface EventBatch {
  readonly taskEvents: { readonly events: readonly SeenEvent[] }
}

export interface Submission {
  readonly presetId: string
  readonly input: unknown
  readonly idempotencyKey: string
  readonly labels: Readonly<Record<string, string>>
  readonly timeoutMs: number
}

/** The service has refused or failed in a way that asking again does not mend. */
export class ApiError extends Error {
  override readonly name = 'ApiError'
  readonly code: string

  constructor(code: string, message: string) {
    super(`${code}: ${message}`)
    this.code = code
  }
}

/** Answers of a service that is in trouble or about to stop: the question was not at fault. */
const TROUBLE = new Set(['INTERNAL_SERVER_ERROR', 'DATABASE_UNAVAILABLE', 'SHUTTING_DOWN'])
const ANSWER_TIMEOUT_MS = 15_000

/** A client of the service over HTTP. Every method may be called again after a lost answer; it throws what the connection throws. */
export interface Api {
  submit(submission: Submission): Promise<{ readonly id: string; readonly duplicate: boolean }>
  /** The task as the answer shows it. */
  cancel(id: string): Promise<{ readonly status: string; readonly cancelRequestedAt: string | null }>
  task(id: string): Promise<SeenTask>
  /** All stored events, page by page. */
  events(id: string): Promise<readonly SeenEvent[]>
  /** The ids of all tasks with this label. */
  idsOf(label: string): Promise<readonly string[]>
  /** The workers that have not exited. */
  liveWorkers(): Promise<readonly SeenWorker[]>
  /** What a worker said outside of tasks. */
  workerLog(id: string): Promise<readonly { readonly kind: string; readonly text: string }[]>
}

/**
 * @param url Where the service is at the moment.
 * @param onTrouble Told of errors that the service answers with though nothing was wrong with the question.
 */
export function createApi(url: () => string, onTrouble: (code: string) => void = () => undefined): Api {
  async function ask<T>(query: string, variables: Readonly<Record<string, unknown>>): Promise<T> {
    const response = await fetch(url(), {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ query, variables }),
      signal: AbortSignal.timeout(ANSWER_TIMEOUT_MS),
    })
    const answer = (await response.json()) as {
      data?: T | null
      errors?: readonly { message: string; extensions?: { code?: string } }[]
    }
    const [error] = answer.errors ?? []
    if (error === undefined && answer.data != null) return answer.data
    const code = error?.extensions?.code ?? `HTTP ${response.status}`
    throw failure(code, error?.message ?? JSON.stringify(answer))
  }

  function failure(code: string, message: string): Error {
    if (!TROUBLE.has(code)) return new ApiError(code, message)
    onTrouble(code)
    return new Error(`the service is in trouble: ${code} ${message}`)
  }

  return {
    async submit(submission) {
      const { submitTask } = await ask<{
        submitTask: { task?: { id: string }; duplicate?: boolean; message?: string; code?: string }
      }>(
        `mutation ($input: SubmitTaskInput!) { submitTask(input: $input) {
          ... on SubmitTaskSuccess { task { id } duplicate } ... on Problem { message } ... on RefusedProblem { code } } }`,
        { input: submission },
      )
      const { task, duplicate = false, code = 'REFUSED', message = '' } = submitTask
      if (task === undefined) throw failure(code, message)
      return { id: task.id, duplicate }
    },

    async cancel(id) {
      const { cancelTask } = await ask<{
        cancelTask: { task?: { status: string; cancelRequestedAt: string | null }; message?: string }
      }>(
        `mutation ($id: ID!) { cancelTask(id: $id, reason: "chaos") {
          ... on CancelTaskSuccess { task { status cancelRequestedAt } } ... on Problem { message } } }`,
        { id },
      )
      if (cancelTask.task === undefined) throw failure('REFUSED', cancelTask.message ?? '')
      return cancelTask.task
    },

    async task(id) {
      const { task } = await ask<{ task: SeenTask | null }>(
        `query ($id: ID!) { task(id: $id) { ${TASK_FIELDS} } }`,
        { id },
      )
      if (task === null) throw new ApiError('NOT_FOUND', `there is no task ${id}`)
      return task
    },

    async events(id) {
      const events: SeenEvent[] = []
      for (let lastSeq = 1; events.length < lastSeq;) {
        const { task } = await ask<{ task: { events: { events: SeenEvent[]; lastSeq: number } } | null }>(
          `query ($id: ID!, $after: Int!) { task(id: $id) { events(first: 1000, after: $after) { lastSeq events { ${EVENT_FIELDS} } } } }`,
          { id, after: events.at(-1)?.seq ?? 0 },
        )
        if (task === null) throw new ApiError('NOT_FOUND', `there is no task ${id}`)
        if (task.events.events.length === 0) break
        events.push(...task.events.events)
        lastSeq = task.events.lastSeq
      }
      return events
    },

    async idsOf(label) {
      const ids: string[] = []
      for (let after: string | null = null; ;) {
        const { tasks }: TaskPage = await ask<TaskPage>(
          `query ($label: LabelFilter!, $after: String) { tasks(filter: {label: $label}, first: 100, after: $after) {
            edges { node { id } } pageInfo { hasNextPage endCursor } } }`,
          { label: { key: 'chaos', value: label }, after },
        )
        ids.push(...tasks.edges.map(({ node }) => node.id))
        if (!tasks.pageInfo.hasNextPage) return ids
        after = tasks.pageInfo.endCursor
      }
    },

    async liveWorkers() {
      return (await ask<{ workers: SeenWorker[] }>('{ workers { id status mode containerId } }', {})).workers
    },

    async workerLog(id) {
      const entries: { position: number; kind: string; text: string }[] = []
      for (;;) {
        const { worker } = await ask<{
          worker: { log: { position: number; kind: string; text: string }[] } | null
        }>(
          `query ($id: ID!, $after: Int!) { worker(id: $id) { log(first: 1000, after: $after) { position kind text } } }`,
          { id, after: entries.at(-1)?.position ?? 0 },
        )
        if (worker === null) throw new ApiError('NOT_FOUND', `there is no worker ${id}`)
        if (worker.log.length === 0) return entries
        entries.push(...worker.log)
      }
    },
  }
}

interface TaskPage {
  readonly tasks: {
    readonly edges: readonly { readonly node: { readonly id: string } }[]
    readonly pageInfo: { readonly hasNextPage: boolean; readonly endCursor: string | null }
  }
}
