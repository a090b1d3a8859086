import { existsSync } from 'node:fs'
import { answersPing } from './client.ts'
import { ensureTestImage, type TestImage } from './images.ts'
import { leaksSince, takeSnapshot } from './leaks.ts'
import { NoEngineError, startPrivateEngine } from './private-engine.ts'

/** Tells the processes of one test run which engine the run has: `private`, `reachable` or `none`. */
const MARKER = 'GPU_SERVICE_TEST_ENGINE'
const PING_TIMEOUT_MS = 3_000

/** The Docker engine of a test run. */
export interface TestEngine {
  /** For DOCKER_HOST. */
  readonly dockerHost: string
  /** Started for the tests alone. */
  readonly private: boolean
  /** Makes an image on the engine where it is missing. */
  ensureImage(image: TestImage): Promise<void>
}

/** The engine as the one who opened it holds it. */
export interface OpenTestEngine extends TestEngine, AsyncDisposable {
  /** What the tests have left on the engine since it was opened, one line each. */
  leaks(): Promise<readonly string[]>
}

/**
 * The engine that the global setup has found; `null` where this machine has none. Throws where the project's `vitest.config.ts` does not
 * name `@gpu-service/test-engine/vitest` as a global setup.
 */
export function testEngine(): TestEngine | null {
  const kind = process.env[MARKER]
  const dockerHost = process.env['DOCKER_HOST']
  if (kind === 'none') return null
  if (kind === undefined || dockerHost === undefined) {
    throw new Error("No global setup has looked for an engine: vitest.config.ts must name test-engine's")
  }
  return createTestEngine(dockerHost, kind === 'private')
}

/** True where an earlier setup of this run, in this process or in one above it, has already looked for an engine. */
export function isEngineShared(): boolean {
  return process.env[MARKER] !== undefined
}

/**
 * Finds the engine that is reachable (DOCKER_HOST, else Docker's default socket), else starts a private one, and tells every process that
 * is started from now on. `null` where neither is possible: said in one loud line, and thrown where REQUIRE_DOCKER is `1`.
 */
export async function openTestEngine(): Promise<OpenTestEngine | null> {
  const before = process.env['DOCKER_HOST']
  const opened = await findOrStart()
  if (opened instanceof NoEngineError) {
    const line =
      `NO DOCKER: ${opened.message}. The tests that need an engine are SKIPPED. ` +
      'Start Docker, or point DOCKER_HOST at one, or run as root with the packages docker.io and util-linux installed.'
    if (process.env['REQUIRE_DOCKER'] === '1') throw new NoEngineError(`REQUIRE_DOCKER=1, but ${line}`)
    console.error(`\n!!! ${line}\n`)
    process.env[MARKER] = 'none'
    return null
  }
  const engine = createTestEngine(opened.dockerHost, opened.private)
  const snapshot = await takeSnapshot(engine.dockerHost)
  process.env['DOCKER_HOST'] = engine.dockerHost
  process.env[MARKER] = engine.private ? 'private' : 'reachable'
  return {
    ...engine,
    leaks: () => leaksSince(engine.dockerHost, snapshot),
    async [Symbol.asyncDispose]() {
      Reflect.deleteProperty(process.env, MARKER)
      if (before === undefined) Reflect.deleteProperty(process.env, 'DOCKER_HOST')
      else process.env['DOCKER_HOST'] = before
      await opened.dispose()
    },
  }
}

function createTestEngine(dockerHost: string, isPrivate: boolean): TestEngine {
  return {
    dockerHost,
    private: isPrivate,
    ensureImage: (image) => ensureTestImage(dockerHost, image),
  }
}

interface FoundEngine {
  readonly dockerHost: string
  readonly private: boolean
  readonly dispose: () => Promise<void>
}

async function findOrStart(): Promise<FoundEngine | NoEngineError> {
  for (const dockerHost of candidates()) {
    if (await answersPing(dockerHost, PING_TIMEOUT_MS)) {
      return { dockerHost, private: false, dispose: () => Promise.resolve() }
    }
  }
  try {
    const engine = await startPrivateEngine()
    return {
      dockerHost: engine.dockerHost,
      private: true,
      dispose: async () => {
        await engine[Symbol.asyncDispose]()
      },
    }
  } catch (error) {
    if (error instanceof NoEngineError) return error
    throw error
  }
}

function candidates(): readonly string[] {
  const named = process.env['DOCKER_HOST']
  if (named !== undefined && named !== '') return [named]
  const sockets = ['/var/run/docker.sock', `${process.env['HOME'] ?? ''}/.docker/run/docker.sock`]
  return sockets.filter((path) => existsSync(path)).map((path) => `unix://${path}`)
}
