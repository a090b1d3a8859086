import { setMaxListeners } from 'node:events'
import { IncomingMessage } from 'node:http'
import { Socket } from 'node:net'
import type { Readable } from 'node:stream'
import Dockerode from 'dockerode'
import { RunnerError } from '@gpu-service/tasks'
import {
  type ContainerInfo,
  type EngineInfo,
  isRecord,
  type ListedContainer,
  parseContainer,
  parseInfo,
  parseListing,
  parseProcesses,
} from './container-info.ts'
import type { RegistryCredentials } from './credentials.ts'
import { askBare, bareAddress, gathered } from './live-log.ts'

/** The engine has refused a call, or it has not answered. */
export class EngineError extends Error {
  override readonly name = 'EngineError'
  /** The HTTP status of the refusal; `null` where no answer came. */
  readonly status: number | null
  constructor(status: number | null, message: string, options?: ErrorOptions) {
    super(message, options)
    this.status = status
  }
  /** False where the call certainly never came to the engine. */
  get reached(): boolean {
    const { cause } = this
    return !(cause instanceof Error && 'code' in cause && UNREACHED.has(cause.code))
  }
  /** The connection was refused, or broke off before an answer came. */
  get brokeOff(): boolean {
    return this.status === null && this.cause !== undefined
  }
  /** No answer, or one of a proxy before an engine that is away. */
  get away(): boolean {
    return this.status === null || this.status === 502 || this.status === 503 || this.status === 504
  }
}

const UNREACHED: ReadonlySet<unknown> = new Set([
  'ECONNREFUSED',
  'ENOENT',
  'EACCES',
  'ENOTFOUND',
  'EHOSTUNREACH',
])

export interface CallOptions {
  readonly query?: Readonly<Record<string, string>>
  readonly body?: object
  /** How long the answer, of a stream its beginning, may take; the engine's default otherwise. */
  readonly timeoutMs?: number
  readonly signal?: AbortSignal
  /** Asks whether the engine answers at all: that it does not is its caller's to tell. */
  readonly isProbe?: boolean
  /** Shown to the registry that the engine turns to. */
  readonly credentials?: RegistryCredentials
}

/** An answer that is read as it comes. */
export interface Answer {
  readonly chunks: AsyncIterable<unknown>
  destroy(): void
}

/** The Docker Engine API: every call has a deadline, and fails with an `EngineError` only. */
export interface Engine extends Disposable {
  call(method: 'GET' | 'POST' | 'DELETE', path: string, options?: CallOptions): Promise<unknown>
  /** An answer that is read as it comes. Its deadline covers the beginning alone; `signal` destroys it at any time. */
  stream(method: 'GET' | 'POST' | 'HEAD', path: string, options?: CallOptions): Promise<IncomingMessage>
  /** An answer that is whole where it ends without an error. */
  read(path: string, options: CallOptions): Promise<Answer>
  /** The same for an answer that goes on and on, at the least cost; where it ends proves nothing. */
  follow(path: string, options: CallOptions): Promise<Answer>
  /** The headers of an answer. */
  headers(path: string, options?: CallOptions): Promise<IncomingMessage['headers']>
  /** A connection to a container's stdin alone. */
  attachStdin(container: string): Promise<Socket>
  /** `null`: there is no such container. */
  inspect(container: string, signal?: AbortSignal): Promise<ContainerInfo | null>
  /** The processes of a running container, as the engine's host counts them; as many as its limit of processes allows. */
  processes(container: string): Promise<number[]>
  /** All workers' containers that have these labels (`name` or `name=value`), in any phase. */
  list(...labels: readonly string[]): Promise<ListedContainer[]>
  info(signal?: AbortSignal): Promise<EngineInfo>
  /** On the machine of this process, as far as can be told. */
  readonly isLocal: boolean
  /** The last call that was not answered in time; `null`: there was none. */
  readonly lastHang: { readonly at: number; readonly message: string } | null
  /** Aborted when the engine is let go of. */
  readonly closed: AbortSignal
}

/** What a timer can wait at most; more would be over at once. */
export const LONGEST_TIMER_MS = 2 ** 31 - 1

/** Nothing that waits for it can wait for long. */
const INFO_TIMEOUT_MS = 5_000

const ACCEPTED = { 200: true, 201: true, 204: true, 304: true }

const OVER_TCP = /^(?:tcp|https?):\/\//

/**
 * Where `dockerHost` is omitted or what the environment's DOCKER_HOST says, dockerode reads the rest of its environment too
 * (DOCKER_CERT_PATH, DOCKER_TLS_VERIFY). Without a port it is 2376 with TLS, else 2375.
 */
export function connectDocker(dockerHost = process.env['DOCKER_HOST']): Dockerode {
  // A kept-alive connection of an engine that was restarted would fail the next call, which may be one that cannot be repeated.
  const headers = { Connection: 'close' }
  const isEnvironments = dockerHost === process.env['DOCKER_HOST']
  if (dockerHost === undefined || (isEnvironments && !OVER_TCP.test(dockerHost)))
    return new Dockerode({ headers })
  if (dockerHost.startsWith('unix:')) {
    // Said outright, for what is left unsaid is taken from the environment.
    const elsewhere = { host: undefined, protocol: 'http' as const }
    return new Dockerode({ headers, ...elsewhere, socketPath: new URL(dockerHost).pathname })
  }
  if (!OVER_TCP.test(dockerHost))
    throw new TypeError(`DOCKER_HOST must begin with unix://, tcp://, http:// or https://: ${dockerHost}`)
  // As of tcp, for URLs drop the default port of a scheme that they know.
  const { hostname, port } = new URL(dockerHost.replace(OVER_TCP, 'tcp://'))
  const verifies = isEnvironments && (process.env['DOCKER_TLS_VERIFY'] === '1' || port === '2376')
  const isTls = dockerHost.startsWith('https:') || verifies
  return new Dockerode({
    headers,
    protocol: isTls ? 'https' : 'http',
    host: hostname,
    port: port || (isTls ? 2376 : 2375),
  })
}

export function createEngine(docker: Dockerode, callTimeoutMs: number): Engine {
  const closing = new AbortController()
  let lastHang: Engine['lastHang'] = null
  // Each worker that is read listens to it several times; a warning of a leak would be wrong.
  setMaxListeners(0, closing.signal)

  async function bounded<T>(
    what: string,
    { timeoutMs = callTimeoutMs, signal, isProbe = false }: CallOptions,
    request: (abortSignal: AbortSignal) => Promise<T>,
  ): Promise<T> {
    const stop = new AbortController()
    let giveUp: (reason: string) => void = () => undefined
    const givenUp = new Promise<never>((_resolve, reject) => {
      giveUp = (reason) => {
        reject(new EngineError(null, `${what}: ${reason}`))
        stop.abort()
      }
    })
    const onAbort = () => {
      giveUp('called off')
    }
    const timer = setTimeout(() => {
      if (!isProbe) lastHang = { at: Date.now(), message: `The Docker engine gave no answer to ${what}.` }
      giveUp(`no answer within ${timeoutMs} ms`)
    }, timeoutMs)
    for (const each of [signal, closing.signal]) each?.addEventListener('abort', onAbort)
    if (signal?.aborted === true || closing.signal.aborted) onAbort()
    try {
      // dockerode never settles a call whose answer breaks off half way: the deadline is raced with it, not only handed over.
      return await Promise.race([request(stop.signal), givenUp])
    } catch (cause) {
      throw cause instanceof EngineError ? cause : engineError(what, cause)
    } finally {
      clearTimeout(timer)
      for (const each of [signal, closing.signal]) each?.removeEventListener('abort', onAbort)
    }
  }

  function dial(
    method: string,
    path: string,
    { query, body, credentials }: CallOptions,
    { isStream, abortSignal }: { isStream: boolean; abortSignal: AbortSignal },
  ): Promise<unknown> {
    return new Promise((resolve, reject) => {
      docker.modem.dial(
        {
          method,
          path: `${path}?`,
          // Both, always: docker-modem would take the one for the other.
          options: { _query: query ?? {}, _body: body ?? {} },
          statusCodes: ACCEPTED,
          isStream,
          abortSignal,
          ...(credentials && { authconfig: credentials }),
        },
        (error, answer) => {
          if (error) {
            reject(error)
            return
          }
          if (abortSignal.aborted && answer instanceof IncomingMessage) answer.destroy()
          resolve(answer)
        },
      )
    })
  }

  function parsed<T>(answer: unknown, parse: (answer: unknown) => T): T {
    try {
      return parse(answer)
    } catch (cause) {
      throw new EngineError(200, 'the engine answered in an unknown form', { cause })
    }
  }

  /** Destroys what was opened when one of the signals is aborted. */
  function tie<T extends Readable>(opened: T, ...signals: (AbortSignal | undefined)[]): T {
    const destroy = () => {
      opened.destroy()
    }
    for (const each of signals) {
      if (each?.aborted === true) destroy()
      each?.addEventListener('abort', destroy)
    }
    opened.once('close', () => {
      for (const each of signals) each?.removeEventListener('abort', destroy)
    })
    return opened
  }

  const engine: Engine = {
    call: (method, path, options = {}) =>
      bounded(`${method} ${path}`, options, (abortSignal) =>
        dial(method, path, options, { isStream: false, abortSignal }),
      ),

    async stream(method, path, options = {}) {
      const answer = await bounded(`${method} ${path}`, options, (abortSignal) =>
        dial(method, path, options, { isStream: true, abortSignal }),
      )
      if (!(answer instanceof IncomingMessage))
        throw new EngineError(200, 'the engine answered in an unknown form')
      return tie(answer, options.signal, closing.signal)
    },

    async read(path, options) {
      const answer = await engine.stream('GET', path, options)
      return answerOf(answer, answer)
    },

    async follow(path, options) {
      const address = bareAddress(docker)
      if (!address) return engine.read(path, options)
      const query = new URLSearchParams(options.query)
      const { status, body } = await bounded(`GET ${path}`, options, (abortSignal) =>
        askBare(docker, address, `${path}?${query.toString()}`, abortSignal),
      )
      tie(body, options.signal, closing.signal)
      if (status === 200) return answerOf(gathered(body), body)
      body.destroy()
      throw new EngineError(status, `GET ${path}: status ${status}`)
    },

    async headers(path, options) {
      const answer = await engine.stream('HEAD', path, options)
      answer.destroy()
      return answer.headers
    },

    async attachStdin(container) {
      const connection: unknown = await bounded(`attach to ${container}`, {}, (abortSignal) =>
        docker
          .getContainer(container)
          .attach({ stream: true, stdin: true, stdout: false, stderr: false, hijack: true, abortSignal }),
      )
      if (!(connection instanceof Socket)) throw new EngineError(200, 'the engine did not open a connection')
      return tie(connection, closing.signal)
    },

    async inspect(container, signal) {
      let answer: unknown
      try {
        answer = await engine.call('GET', `/containers/${container}/json`, { ...(signal && { signal }) })
      } catch (error) {
        if (error instanceof EngineError && error.status === 404) return null
        throw error
      }
      return parsed(answer, parseContainer)
    },

    async processes(container) {
      // All processes, of which the engine picks the container's: it looks for a column PID.
      const query = { ps_args: '-eo pid' }
      return parsed(await engine.call('GET', `/containers/${container}/top`, { query }), parseProcesses)
    },

    async list(...labels) {
      const query = { all: '1', filters: JSON.stringify({ label: labels }) }
      return parsed(await engine.call('GET', '/containers/json', { query }), parseListing)
    },

    async info(signal) {
      const timeoutMs = Math.min(INFO_TIMEOUT_MS, callTimeoutMs)
      return parsed(await engine.call('GET', '/info', { timeoutMs, ...(signal && { signal }) }), parseInfo)
    },

    isLocal: 'path' in (bareAddress(docker) ?? {}),

    get lastHang() {
      return lastHang
    },

    closed: closing.signal,

    [Symbol.dispose]() {
      closing.abort()
    },
  }
  return engine
}

function answerOf(chunks: AsyncIterable<unknown>, stream: Readable): Answer {
  return {
    chunks,
    destroy() {
      stream.destroy()
    },
  }
}

/** What may be told to the caller of a runner. */
export function runnerError(error: unknown): unknown {
  if (!(error instanceof EngineError)) return error
  const code = error.away ? 'ENGINE_UNAVAILABLE' : error.status === 404 ? 'NOT_FOUND' : 'ENGINE_REFUSED'
  return new RunnerError(code, error.message, { cause: error })
}

function engineError(what: string, cause: unknown): EngineError {
  const message = cause instanceof Error ? cause.message : String(cause)
  if (!isRecord(cause)) return new EngineError(null, `${what}: ${message}`, { cause })
  // docker-modem puts the status and the parsed answer on its errors.
  const told = isRecord(cause['json']) ? cause['json']['message'] : undefined
  const status = typeof cause['statusCode'] === 'number' ? cause['statusCode'] : null
  return new EngineError(status, `${what}: ${typeof told === 'string' ? told : message}`, { cause })
}
