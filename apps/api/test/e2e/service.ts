import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { createClient, type Client } from 'graphql-ws'
import WebSocket from 'ws'

const root = join(import.meta.dirname, '../../../..')

/** A preset in the file's own words; what is given here is written as JSON, which is YAML. */
export type PresetSource = Readonly<Record<string, unknown>>

export interface TestServiceOptions {
  readonly runner: 'docker' | 'process'
  /** By kind; the model is `test`, so that the id is `test/<kind>`. */
  readonly presets: Readonly<Record<string, PresetSource>>
  readonly env?: Readonly<Record<string, string>>
  /** What is run instead of the bundle that users run. */
  readonly bundle?: string
}

/** One event as a subscriber sees it. */
export type SeenEvent = Readonly<Record<string, unknown>> & {
  readonly __typename: string
  readonly seq: number
  readonly taskStatus?: string
}

export interface SeenTask {
  readonly id: string
  readonly status: string
  readonly attempt: number
  readonly text: string | null
  readonly exitCode: number | null
  readonly error: { readonly code: string; readonly message: string } | null
  readonly lastSeq: number
  readonly gpuIds: readonly string[]
  readonly explanation: string | null
  readonly worker: { readonly id: string; readonly containerId: string | null } | null
  readonly startedAt: string | null
  readonly finishedAt: string | null
  readonly cancelRequestedAt: string | null
  readonly queuePosition: number | null
}

export const TASK_FIELDS =
  'id status attempt text exitCode error { code message } lastSeq gpuIds explanation worker { id containerId } startedAt finishedAt cancelRequestedAt queuePosition'

/** A task with all that its attempts left behind. */
export interface SeenHistory extends SeenTask {
  readonly owner: string
  readonly createdAt: string
  readonly queuedAt: string
  readonly runningAt: string | null
  readonly retryAt: string | null
  readonly retryOf: string | null
  readonly stoppedAt: string | null
  readonly gpuFreeAt: string | null
  readonly killed: boolean
  readonly attempts: readonly SeenAttempt[]
}

export interface SeenAttempt {
  readonly attempt: number
  readonly warm: boolean
  readonly startedAt: string
  readonly runningAt: string | null
  readonly finishedAt: string | null
  readonly status: string | null
  readonly error: { readonly code: string; readonly message: string } | null
  readonly failureClass: string | null
  readonly exitCode: number | null
  readonly gpuIds: readonly string[]
  readonly workerId: string
}

const HISTORY_FIELDS = `${TASK_FIELDS} owner createdAt queuedAt runningAt retryAt retryOf stoppedAt gpuFreeAt killed
  attempts { attempt warm startedAt runningAt finishedAt status error { code message } failureClass exitCode gpuIds workerId }`

export interface SeenWorker {
  readonly id: string
  readonly presetId: string
  readonly mode: string
  readonly status: string
  readonly containerId: string | null
  readonly owner: string | null
  readonly tasksServed: number
  readonly memoryClaimedMb: number | null
  readonly memoryUsedMb: number | null
  readonly peakMemoryMb: number | null
  readonly loadMs: number | null
  readonly loadProgress: number | null
  readonly idleSince: string | null
  readonly endsAt: string | null
  readonly pinned: boolean
  readonly endReason: string | null
  readonly explanation: string
  readonly gpus: readonly { readonly id: string }[]
  readonly tasks: readonly { readonly id: string }[]
}

export const WORKER_FIELDS = `id presetId mode status containerId owner tasksServed memoryClaimedMb memoryUsedMb peakMemoryMb loadMs loadProgress
  idleSince endsAt pinned endReason explanation gpus { id } tasks { id }`

export interface SeenGpu {
  readonly id: string
  readonly index: number
  readonly status: string
  readonly health: string
  readonly problem: string | null
  readonly drained: boolean
  readonly stale: boolean
  readonly simulated: boolean
  readonly memoryTotalMb: number
  readonly memoryUsedMb: number | null
  readonly memoryClaimedMb: number
  readonly memoryFreeMb: number
  readonly foreignMemoryMb: number | null
  readonly explanation: string
}

export const GPU_FIELDS =
  'id index status health problem drained stale simulated memoryTotalMb memoryUsedMb memoryClaimedMb memoryFreeMb foreignMemoryMb explanation'

export const EVENT_FIELDS = `__typename seq at attempt
  ... on TaskStatusEvent { taskStatus reason } ... on ConnectionEvent { status } ... on WorkerEvent { status message progress }
  ... on TextDeltaEvent { delta } ... on TextEvent { content } ... on FinishEvent { status error { code message } }
  ... on ProgressEvent { completed total unit message } ... on ResultEvent { value }
  ... on ArtifactEvent { artifact { id name mediaType bytes sha256 url } } ... on UsageEvent { values }
  ... on LogEvent { stream level line } ... on CustomEvent { name payload }
  ... on ProtocolFaultEvent { kind line detail } ... on GapEvent { detail }`

export const FINAL = ['COMPLETED', 'FAILED', 'CANCELLED', 'TIMED_OUT']

/** The real service as its own process, with real clients. */
export class TestService implements AsyncDisposable {
  readonly #options: TestServiceOptions
  readonly dataDir: string
  #child: ChildProcess | null = null
  #client: Client | null = null
  /** What the process has printed, both streams, since it was last started. */
  output = ''
  url = ''

  private constructor(options: TestServiceOptions, dataDir: string) {
    this.#options = options
    this.dataDir = dataDir
  }

  static async start(options: TestServiceOptions): Promise<TestService> {
    const service = new TestService(options, await mkdtemp(join(tmpdir(), 'gpu-service-e2e-')))
    await service.writePresets(options.presets)
    await service.up()
    return service
  }

  get presetsFile(): string {
    return join(this.dataDir, 'presets.yaml')
  }

  async writePresets(presets: TestServiceOptions['presets']): Promise<void> {
    await writeFile(this.presetsFile, JSON.stringify({ models: { test: presets } }))
  }

  /** Starts the process and waits for its ready line. `more` is for this start alone. */
  async up(more: Readonly<Record<string, string>> = {}): Promise<void> {
    const { runner, env, bundle = join(root, 'apps/api/dist/main.js') } = this.#options
    const child = spawn(process.execPath, ['--enable-source-maps', bundle], {
      env: {
        PATH: process.env['PATH'],
        HOME: process.env['HOME'],
        NODE_ENV: 'production',
        ...(process.env['DOCKER_HOST'] !== undefined && { DOCKER_HOST: process.env['DOCKER_HOST'] }),
        PORT: '0',
        DATA_DIR: this.dataDir,
        PRESETS_FILE: this.presetsFile,
        RUNNER: runner,
        GPUS: 'none',
        GPU_SAMPLE_SECONDS: '0.3',
        LOG_LEVEL: 'warn',
        ...env,
        ...more,
      },
      stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
    })
    const { stdout, stderr } = child
    if (stdout === null || stderr === null) throw new Error('the process has no output')
    this.#child = child
    this.output = ''
    stderr.setEncoding('utf8').on('data', (text: string) => {
      this.output += text
    })
    this.url = await new Promise<string>((resolve, reject) => {
      createInterface({ input: stdout }).on('line', (line) => {
        this.output += `${line}\n`
        const url = /^Ready: (http:\S+\/graphql)$/.exec(line)?.[1]
        if (url !== undefined) resolve(url)
      })
      child.once('exit', (code) => {
        reject(new Error(`the service exited with ${code} before it was ready:\n${this.output}`))
      })
    })
    this.#client = createClient({
      url: this.url.replace('http:', 'ws:'),
      webSocketImpl: WebSocket,
      retryAttempts: 0,
      lazy: true,
    })
  }

  /** Sends a message to the process, for a bundle that listens, and gives its answer. */
  async ask<T>(message: object): Promise<T> {
    const child = this.#child
    if (child === null) throw new Error('the service is not running')
    const answer = once(child, 'message')
    child.send(message)
    return ((await answer) as [T])[0]
  }

  /** Resolves when the process has ended, with the signal that ended it. */
  async died(): Promise<NodeJS.Signals | null> {
    const child = this.#child
    if (child !== null && child.exitCode === null && child.signalCode === null) await once(child, 'exit')
    return child?.signalCode ?? null
  }

  get isUp(): boolean {
    return this.#child !== null && this.#child.exitCode === null && this.#child.signalCode === null
  }

  get pid(): number {
    const pid = this.#child?.pid
    if (pid === undefined) throw new Error('the service is not running')
    return pid
  }

  /** Ends the process with a signal and gives its exit code, `null` where the signal itself ended it. */
  async down(signal: NodeJS.Signals = 'SIGTERM'): Promise<number | null> {
    const child = this.#child
    this.#child = null
    if (child === null) return null
    const ended =
      child.exitCode === null && child.signalCode === null ? once(child, 'exit') : Promise.resolve()
    child.kill(signal)
    await ended
    // The server is gone; without this the client would wait for it.
    await this.#client?.dispose()
    return child.exitCode
  }

  async query<T = Record<string, unknown>>(
    query: string,
    variables: Record<string, unknown> = {},
  ): Promise<T> {
    const response = await fetch(this.url, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ query, variables }),
    })
    const { data, errors } = (await response.json()) as { data?: T; errors?: unknown }
    if (errors !== undefined || data === undefined) throw new Error(JSON.stringify(errors))
    return data
  }

  /** Over the one WebSocket of this service's client. */
  subscribe<T>(query: string, variables: Record<string, unknown> = {}): AsyncIterableIterator<T> {
    if (this.#client === null) throw new Error('the service is not running')
    const results = this.#client.iterate<T>({ query, variables })
    return (async function* () {
      for await (const { data, errors } of results) {
        if (errors !== undefined) throw new Error(JSON.stringify(errors))
        if (data != null) yield data
      }
    })()
  }

  /** Submits and gives the task's id. */
  async submit(kind: string, input: Record<string, unknown> = {}): Promise<string> {
    const { submitTask } = await this.query<{
      submitTask: { task?: { id: string }; message?: string; code?: string }
    }>(
      `mutation ($input: SubmitTaskInput!) { submitTask(input: $input) {
        ... on SubmitTaskSuccess { task { id } } ... on Problem { message } ... on RefusedProblem { code } } }`,
      { input: { presetId: `test/${kind}`, ...input } },
    )
    if (submitTask.task === undefined) throw new Error(JSON.stringify(submitTask))
    return submitTask.task.id
  }

  async task(id: string): Promise<SeenTask> {
    const { task } = await this.query<{ task: SeenTask | null }>(
      `query ($id: ID!) { task(id: $id) { ${TASK_FIELDS} } }`,
      { id },
    )
    if (task === null) throw new Error(`there is no task ${id}`)
    return task
  }

  /** Submits and waits for the end. */
  async run(kind: string, input: Record<string, unknown> = {}): Promise<SeenHistory> {
    const id = await this.submit(kind, input)
    await this.events(id)
    return this.history(id)
  }

  async history(id: string): Promise<SeenHistory> {
    const { task } = await this.query<{ task: SeenHistory | null }>(
      `query ($id: ID!) { task(id: $id) { ${HISTORY_FIELDS} } }`,
      { id },
    )
    if (task === null) throw new Error(`there is no task ${id}`)
    return task
  }

  /** Those that have not exited, oldest first; of one kind where it is given. */
  async workers(kind?: string): Promise<readonly SeenWorker[]> {
    const { workers } = await this.query<{ workers: SeenWorker[] }>(`{ workers { ${WORKER_FIELDS} } }`)
    return workers.filter(({ presetId }) => kind === undefined || presetId === `test/${kind}`)
  }

  async gpus(): Promise<readonly SeenGpu[]> {
    return (await this.query<{ gpus: SeenGpu[] }>(`{ gpus { ${GPU_FIELDS} } }`)).gpus
  }

  /** The `index`-th one. */
  async gpu(index = 0): Promise<SeenGpu> {
    const gpu = (await this.gpus())[index]
    if (gpu === undefined) throw new Error(`there is no GPU ${index}`)
    return gpu
  }

  /** The task's events after `after`, to its end or to the first that `until` accepts. */
  async events(
    id: string,
    after = 0,
    until: (event: SeenEvent) => boolean = () => false,
  ): Promise<SeenEvent[]> {
    const seen: SeenEvent[] = []
    const batches = this.subscribe<{ taskEvents: { events: SeenEvent[] } }>(
      `subscription ($id: ID!, $after: Int!) { taskEvents(taskId: $id, after: $after) { events { ${EVENT_FIELDS} } } }`,
      { id, after },
    )
    for await (const { taskEvents } of batches) {
      for (const event of taskEvents.events) {
        seen.push(event)
        if (until(event)) return seen
      }
    }
    return seen
  }

  /** Waits for the task's end. */
  async ended(id: string): Promise<SeenTask> {
    await this.events(id)
    return this.task(id)
  }

  /** Waits until the task has this status (or has ended). */
  async reached(id: string, status: string): Promise<void> {
    await this.events(id, 0, (event) => event.taskStatus === status)
  }

  async cancel(id: string, reason?: string): Promise<SeenTask> {
    const { cancelTask } = await this.query<{ cancelTask: { task: SeenTask } }>(
      `mutation ($id: ID!, $reason: String) { cancelTask(id: $id, reason: $reason) { ... on CancelTaskSuccess { task { ${TASK_FIELDS} } } } }`,
      { id, reason },
    )
    return cancelTask.task
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const { presets, env } = this.#options
    try {
      // Warm workers outlive a service that does not stop them.
      if (Object.values(presets).some(({ mode }) => mode === 'session') && env?.['SHUTDOWN'] !== 'stop') {
        await this.down()
        await this.up({ SHUTDOWN: 'stop' })
      }
    } finally {
      await this.down()
      await rm(this.dataDir, { recursive: true, force: true })
    }
  }
}

/** The invariants that hold for every ended task: seq 1..n without a hole, one final state, and that one last. */
export function faultsOf(events: readonly SeenEvent[]): string[] {
  const faults: string[] = []
  events.forEach((event, index) => {
    if (event.seq !== index + 1) faults.push(`event ${index + 1} has seq ${event.seq}`)
  })
  const finals = events.filter(({ taskStatus }) => taskStatus !== undefined && FINAL.includes(taskStatus))
  if (finals.length !== 1) faults.push(`${finals.length} final states`)
  if (finals[0] !== events.at(-1)) faults.push('the final state is not the last event')
  return faults
}
