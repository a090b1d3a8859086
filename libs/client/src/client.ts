import type { WebSocketConstructor } from './connection.ts'
import { lasting } from './error.ts'
import { type FollowOptions, followTask, isFinal, type TaskEvents } from './follow-task.ts'
import { type TextPiece, textOf } from './follow-text.ts'
import {
  CancelTaskDocument,
  type CancelTaskMutation,
  type GpuFieldsFragment,
  GpusDocument,
  PresetsDocument,
  type PresetsQuery,
  ServiceDocument,
  type ServiceQuery,
  SubmitTaskDocument,
  type SubmitTaskInput,
  type SubmitTaskMutation,
  SubmitTasksDocument,
  type SubmitTasksMutation,
  TaskDocument,
  TaskEventsDocument,
  type TaskFieldsFragment,
  type TaskFilter,
  type TaskQuery,
  TasksDocument,
  TaskStateDocument,
  WatchGpusDocument,
  WatchTasksDocument,
  WatchWorkersDocument,
  WorkerDocument,
  type WorkerFieldsFragment,
  WorkersDocument,
} from './generated/operations.ts'
import type { Operation } from './operation.ts'
import { createRequests } from './requests.ts'
import type { ResumeOptions } from './resuming.ts'
import { DEFAULT_TIMING, type Timing } from './timing.ts'
import { upload, type Upload, type UploadBody, type UploadOptions } from './upload.ts'
import { watch } from './watch.ts'
import { Wire } from './wire.ts'

export interface GpuClientOptions {
  /** Where the service serves GraphQL, `http(s)://…/graphql`. */
  readonly url: string
  /** Absent: the platform's own. Node.js has one from version 22 on; before, the package `ws` has. */
  readonly webSocket?: WebSocketConstructor | undefined
  /** Absent: the platform's own. */
  readonly fetch?: typeof fetch | undefined
  /**
   * Go with every request, and with every new WebSocket as its `connection_init`, because browsers let nobody set headers there. Asked for
   * anew each time.
   */
  readonly headers?: (() => Record<string, string> | Promise<Record<string, string>>) | undefined
  readonly timing?: Partial<Timing> | undefined
}

export interface AskOptions {
  readonly signal?: AbortSignal | undefined
}

export type Task = TaskFieldsFragment
/** A task with what it was given, what came of it, and its attempts. */
export type TaskDetails = NonNullable<TaskQuery['task']>
export type Gpu = GpuFieldsFragment
export type Worker = WorkerFieldsFragment
export type Preset = PresetsQuery['presets'][number]
export type Service = ServiceQuery['service']

export interface TaskPage {
  /** The latest first. */
  readonly tasks: readonly Task[]
  /** What `after` takes for the next page; `null`: this is the last one. */
  readonly next: string | null
}

/**
 * A client of the GPU Service. Queries go over HTTP and are tried again a few times where nobody answers; subscriptions share one WebSocket,
 * and each goes on by itself after whatever broke it, until it is over, its consumer leaves, or the service refuses it for good.
 *
 * Everything that fails throws a GpuClientError, or the reason of a signal that was given. What the service refuses (an unknown preset, say)
 * is no failure: it is in the answer.
 */
export interface GpuClient extends AsyncDisposable {
  query<R, V extends Record<string, unknown>>(
    operation: Operation<'query', R, V>,
    variables: V,
    options?: AskOptions,
  ): Promise<R>
  /** Is not tried again: what is done by then is not known where no answer comes. */
  mutate<R, V extends Record<string, unknown>>(
    operation: Operation<'mutation', R, V>,
    variables: V,
    options?: AskOptions,
  ): Promise<R>

  /**
   * Submits a task once, however often it has to be tried: an input without an idempotency key is given one.
   */
  submitTask(input: SubmitTaskInput, options?: AskOptions): Promise<SubmitTaskMutation['submitTask']>
  /** All of them or none; otherwise like `submitTask`. */
  submitTasks(
    inputs: readonly SubmitTaskInput[],
    options?: AskOptions,
  ): Promise<SubmitTasksMutation['submitTasks']>
  /**
   * Gives the service a file, for `files` of a submission: streamed, in any length. Not tried again.
   * @throws GpuClientError UPLOAD_TOO_LARGE, UNSUPPORTED_TYPE, NO_ROOM and the like.
   */
  upload(body: UploadBody, options: UploadOptions): Promise<Upload>
  cancelTask(id: string, reason?: string, options?: AskOptions): Promise<CancelTaskMutation['cancelTask']>
  /** `null`: there is none. */
  task(id: string, options?: AskOptions): Promise<TaskDetails | null>
  /** At most `first` (1 to 100; absent: 20) of those that match. */
  tasks(
    page?: { readonly filter?: TaskFilter; readonly first?: number; readonly after?: string | null },
    options?: AskOptions,
  ): Promise<TaskPage>
  presets(options?: AskOptions): Promise<readonly Preset[]>
  gpus(options?: AskOptions): Promise<readonly Gpu[]>
  workers(options?: AskOptions): Promise<readonly Worker[]>
  service(options?: AskOptions): Promise<Service>

  /**
   * A task's events after `after`, in batches: each event exactly once and in order, whatever breaks in between. Ends after the final status
   * event, at once where `after` is the last event of an ended task. The consumer sets the pace: while it takes nothing, little is held here.
   * @throws GpuClientError NOT_FOUND, BAD_CURSOR, UNAUTHENTICATED, FORBIDDEN and the like; never for a broken connection.
   */
  followTask(taskId: string, options?: FollowOptions): AsyncIterableIterator<TaskEvents, undefined>
  /** A task's text as it comes into being; its pieces put together are the task's `text`. Otherwise like `followTask`. */
  followText(taskId: string, options?: ResumeOptions): AsyncIterableIterator<TextPiece, undefined>
  /** First the tasks that match and have not ended, then every change of one that matches; after a broken connection both again. */
  watchTasks(filter?: TaskFilter, options?: ResumeOptions): AsyncIterableIterator<Task, undefined>
  /** First every GPU, then every change; after a broken connection both again. */
  watchGpus(options?: ResumeOptions): AsyncIterableIterator<Gpu, undefined>
  /** First every worker that has not exited, then every change; after a broken connection both again. */
  watchWorkers(options?: ResumeOptions): AsyncIterableIterator<Worker, undefined>

  /** Ends what goes on with CLOSED, and closes the connections. */
  close(): void
}

/** @throws TypeError where the platform has no WebSocket and none is given. */
export function createGpuClient(options: GpuClientOptions): GpuClient {
  const { url } = options
  const webSocket =
    options.webSocket ?? (globalThis as { readonly WebSocket?: WebSocketConstructor }).WebSocket
  if (webSocket === undefined) {
    throw new TypeError(
      "This platform has no WebSocket: give one as the option webSocket, such as that of the package 'ws'.",
    )
  }
  const timing = { ...DEFAULT_TIMING, ...options.timing }
  const headers = async (): Promise<Record<string, string>> => ({ ...(await options.headers?.()) })
  // Called as a function of its own: a browser's refuses to be called as a method of something else.
  const service = { url, headers, fetch: options.fetch ?? ((...args) => fetch(...args)) }
  const requests = createRequests({ ...service, timing })
  const wire = new Wire({
    url: url.replace(/^http/, 'ws'),
    webSocket,
    params: headers,
    timing,
    examine: requests.examine,
  })
  const closed = new AbortController()
  const resumer = { wire, timing, closed: closed.signal }
  const follower = {
    ...resumer,
    async read(id: string, stretch: { readonly first: number; readonly after: number }, signal: AbortSignal) {
      const { task } = await ask(TaskEventsDocument, { id, ...stretch }, { signal })
      return task === null ? null : { ...task.events, status: task.status }
    },
  }

  function ask<R, V extends Record<string, unknown>>(
    operation: Operation<'query' | 'mutation', R, V>,
    variables: V,
    { signal }: AskOptions,
  ): Promise<R> {
    return requests.ask(operation, variables, { signal, isRepeatable: true })
  }

  const follow: GpuClient['followTask'] = (taskId, following = {}) => followTask(follower, taskId, following)

  function close(): void {
    closed.abort(lasting('CLOSED', 'The client was closed.'))
    wire.close()
  }

  return {
    query: (operation, variables, asking = {}) => ask(operation, variables, asking),
    mutate: (operation, variables, { signal } = {}) =>
      requests.ask(operation, variables, { signal, isRepeatable: false }),

    submitTask: async (input, asking = {}) =>
      (await ask(SubmitTaskDocument, { input: keyed(input) }, asking)).submitTask,
    submitTasks: async (inputs, asking = {}) =>
      (await ask(SubmitTasksDocument, { inputs: inputs.map(keyed) }, asking)).submitTasks,
    upload: (body, sending) => upload(service, body, sending),
    // Asking again changes nothing.
    cancelTask: async (id, reason, asking = {}) =>
      (await ask(CancelTaskDocument, { id, reason }, asking)).cancelTask,
    task: async (id, asking = {}) => (await ask(TaskDocument, { id }, asking)).task,
    async tasks({ filter, first = 20, after } = {}, asking = {}) {
      const { edges, pageInfo } = (await ask(TasksDocument, { filter, first, after }, asking)).tasks
      return { tasks: edges.map(({ node }) => node), next: pageInfo.hasNextPage ? pageInfo.endCursor : null }
    },
    presets: async (asking = {}) => (await ask(PresetsDocument, {}, asking)).presets,
    gpus: async (asking = {}) => (await ask(GpusDocument, {}, asking)).gpus,
    workers: async (asking = {}) => (await ask(WorkersDocument, {}, asking)).workers,
    service: async (asking = {}) => (await ask(ServiceDocument, {}, asking)).service,

    followTask: follow,
    followText: (taskId, following) => textOf(follow(taskId, following)),
    watchTasks: (filter, watching = {}) =>
      watch(
        resumer,
        {
          operation: WatchTasksDocument,
          variables: { filter },
          valueOf: ({ taskUpdated }) => taskUpdated,
          ends: {
            isEnd: ({ status }) => isFinal(status),
            read: async (id, signal) => (await ask(TaskStateDocument, { id }, { signal })).task,
          },
        },
        watching,
      ),
    watchGpus: (watching = {}) =>
      watch(
        resumer,
        { operation: WatchGpusDocument, variables: {}, valueOf: ({ gpuUpdated }) => gpuUpdated, ends: null },
        watching,
      ),
    watchWorkers: (watching = {}) =>
      watch(
        resumer,
        {
          operation: WatchWorkersDocument,
          variables: {},
          valueOf: ({ workerUpdated }) => workerUpdated,
          ends: {
            isEnd: ({ status }) => status === 'EXITED',
            read: async (id, signal) => (await ask(WorkerDocument, { id }, { signal })).worker,
          },
        },
        watching,
      ),

    close,
    [Symbol.asyncDispose]() {
      close()
      return Promise.resolve()
    },
  }
}

function keyed(input: SubmitTaskInput): SubmitTaskInput {
  return { ...input, idempotencyKey: input.idempotencyKey ?? randomKey() }
}

/** Made of what browsers have on pages without TLS, too. */
function randomKey(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) =>
    byte.toString(16).padStart(2, '0'),
  ).join('')
}
