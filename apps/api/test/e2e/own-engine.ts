import {
  BUSYBOX_IMAGE,
  ensureTestImage,
  startPrivateEngine,
  type PrivateEngine,
  type PrivateEngineOptions,
} from '@gpu-service/test-engine'
import { TestService, type PresetSource } from './service.ts'

/** A service with an engine that is its alone, so that a test may do to it what it likes. */
export class OwnEngineStage implements AsyncDisposable {
  readonly engine: PrivateEngine
  readonly service: TestService

  private constructor(engine: PrivateEngine, service: TestService) {
    this.engine = engine
    this.service = service
  }

  static async open(
    options: PrivateEngineOptions,
    presets: Readonly<Record<string, PresetSource>>,
  ): Promise<OwnEngineStage> {
    const engine = await startPrivateEngine(options)
    await ensureTestImage(engine.dockerHost, BUSYBOX_IMAGE)
    const service = await TestService.start({
      runner: 'docker',
      env: { DOCKER_HOST: engine.dockerHost },
      presets,
    })
    return new OwnEngineStage(engine, service)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.service[Symbol.asyncDispose]()
    await this.engine[Symbol.asyncDispose]()
  }

  async restart(signal: 'TERM' | 'KILL'): Promise<void> {
    await this.engine.stop(signal)
    await this.engine.start()
  }

  /** Submits one task of each kind, and waits until each has said something. */
  async begin(kinds: readonly string[]): Promise<readonly string[]> {
    const ids = await Promise.all(kinds.map((kind) => this.service.submit(kind)))
    await Promise.all(
      ids.map((id) => this.service.events(id, 0, ({ __typename }) => __typename === 'TextDeltaEvent')),
    )
    return ids
  }
}
