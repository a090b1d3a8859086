import { chmod, mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { expect, vi } from 'vitest'
import { FAILPOINTS_BUNDLE } from '../build.ts'
import { callEngine } from '../e2e/sessions.ts'
import { FINAL, faultsOf, TestService, type SeenHistory } from '../e2e/service.ts'
import type { EngineFailpoint, EngineGate } from './engine-gate.ts'
import { FAILPOINT_VARIABLE, type Failpoint, type Heard, type Told } from './protocol.ts'
import { presetsOf, type Scenario } from './scenarios.ts'

const EVENTUALLY = { timeout: 20_000, interval: 20 }
/** How long after a walk a step may still come that belongs to it: what is done in the background. */
const AFTERWARDS_MS = 3_000
/** How often a client whose call has failed calls again, and how often a failpoint is tried that a walk has not come to. */
const TRIES = 10
/** The same for one that is come to by chance only. */
const TRIES_BY_CHANCE = 2

type Runner = 'docker' | 'process'

/** One service that is made to fail at one failpoint after the other, and looked at after each. */
export class Lane implements AsyncDisposable {
  readonly service: TestService
  readonly #runner: Runner
  readonly #folder: string
  readonly #name: string
  #walks = 0

  private constructor(service: TestService, runner: Runner, folder: string, name: string) {
    this.service = service
    this.#runner = runner
    this.#folder = folder
    this.#name = name
  }

  static async open(runner: Runner, name: string, env: Readonly<Record<string, string>> = {}): Promise<Lane> {
    const folder = await mkdtemp(join(tmpdir(), 'failpoints-'))
    // The worker in a container is another user.
    await chmod(folder, 0o777)
    const surroundings =
      runner === 'process'
        ? { marks: join(folder, 'marks') }
        : { marks: '/marks/marks', volumes: [{ source: folder, target: '/marks', read_only: false }] }
    const service = await TestService.start({
      runner,
      bundle: FAILPOINTS_BUNDLE,
      presets: presetsOf(surroundings),
      env: { GPUS: 'simulated:1x8192', VOLUME_ROOTS: folder, ...env },
    })
    return new Lane(service, runner, folder, name)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.service[Symbol.asyncDispose]()
    await rm(this.#folder, { recursive: true, force: true })
  }

  // ------------------------------------------------------------------------------------------------------- what a client does

  /** Under a key: the same task however often. */
  submit(kind: string, key: string, input: object = {}): Promise<string> {
    return this.service.submit(kind, { idempotencyKey: key, input })
  }

  /** Has one session, which is ready. */
  async warm(): Promise<void> {
    const there = async (): Promise<string[]> =>
      (await this.service.workers('session'))
        .map(({ status }) => status)
        .filter((status) => status !== 'STOPPING')
    if ((await there()).length === 0)
      await this.service.query(
        'mutation { startSession(presetId: "test/session") { ... on Problem { message } } }',
      )
    await vi.waitFor(async () => {
      expect(await there()).toEqual(['READY'])
    }, EVENTUALLY)
  }

  async endSessions(): Promise<void> {
    for (const { id } of await this.service.workers('session'))
      await this.service.query('mutation ($id: ID!) { endSession(id: $id) { ... on Problem { message } } }', {
        id,
      })
    await vi.waitFor(async () => {
      expect(await this.service.workers('session')).toEqual([])
    }, EVENTUALLY)
  }

  /** Waits until there is no one-off worker. */
  async idle(): Promise<void> {
    await vi.waitFor(async () => {
      expect((await this.service.workers()).filter(({ mode }) => mode === 'ONE_OFF')).toEqual([])
    }, EVENTUALLY)
  }

  // ------------------------------------------------------------------------------------------------------------- failpoints

  /** The steps of a walk that nothing disturbs. */
  async record({ prepare, walk }: Scenario): Promise<ReadonlySet<string>> {
    await prepare(this)
    await this.#tell({ record: true })
    await walk(this, this.#nextKey())
    return this.#steps()
  }

  /** The steps of a start that finds what a killed process has left, as far as it goes without a client. */
  async recordStart(scenario: Scenario): Promise<ReadonlySet<string>> {
    const key = this.#nextKey()
    await this.#leave(scenario, key)
    await this.service.up()
    let steps = await this.#steps()
    for (let before = -1; steps.size !== before; steps = await this.#steps()) before = steps.size
    await scenario.walk(this, key)
    return steps
  }

  /** Walks, is killed at the failpoint, goes on after a new start; gives what is wrong then. */
  async cross(scenario: Scenario, failpoint: Failpoint): Promise<readonly string[]> {
    return this.#faultsIn(scenario, textOf(failpoint), async (key) => {
      await scenario.prepare(this)
      await this.#tell({ set: failpoint })
      await this.#dies(scenario.walk(this, key).catch(() => undefined))
      await this.service.up()
    })
  }

  /** The same at a call to the engine. */
  async crossEngine(
    scenario: Scenario,
    gate: EngineGate,
    failpoint: EngineFailpoint,
  ): Promise<readonly string[]> {
    return this.#faultsIn(scenario, `kill ${failpoint.side} ${failpoint.call}`, async (key) => {
      await scenario.prepare(this)
      gate.set(failpoint, this.service.pid)
      await this.#dies(scenario.walk(this, key).catch(() => undefined)).finally(() => {
        gate.set(null, 0)
      })
      await this.service.up()
    })
  }

  /** Is killed in the middle of a walk, again at the failpoint of the next start, and started once more; gives what is wrong then. */
  async crossStart(
    scenario: Scenario,
    failpoint: Failpoint,
    isByChance: boolean,
  ): Promise<readonly string[]> {
    const disturb = async (key: string): Promise<void> => {
      await this.#leave(scenario, key)
      const started = this.service.up({ [FAILPOINT_VARIABLE]: JSON.stringify(failpoint) })
      await this.#dies(started.then(() => sleep(AFTERWARDS_MS)).catch(() => undefined))
      await this.service.up()
    }
    return this.#faultsIn(scenario, textOf(failpoint), disturb, isByChance)
  }

  /** Walks while a call of a port fails or hangs; the service goes on as it is. */
  async pass(scenario: Scenario, failpoint: Failpoint): Promise<readonly string[]> {
    const anyEnd = { ...scenario, comesTo: { ...scenario.comesTo, status: null, text: null } }
    return this.#faultsIn(anyEnd, textOf(failpoint), async (key) => {
      await scenario.prepare(this)
      await this.#tell({ set: failpoint })
      await this.#insist(() => scenario.walk(this, key))
      await this.#tell({ set: null })
    })
  }

  async #faultsIn(
    scenario: Scenario,
    what: string,
    disturb: (key: string) => Promise<void>,
    isByChance = false,
  ): Promise<readonly string[]> {
    const where = `${scenario.name}, ${what}`
    for (let tries = 1; ; tries++) {
      const key = this.#nextKey()
      try {
        await disturb(key)
        const id = await scenario.walk(this, key)
        return (await this.#faultsOf(id, scenario)).map((fault) => `${where}: ${fault}`)
      } catch (error) {
        if (!this.service.isUp) await this.service.up()
        // What a worker says in one breath is stored in one commit: on a busy machine a walk may leave out a step.
        if (error instanceof NotReached) {
          if (tries < (isByChance ? TRIES_BY_CHANCE : TRIES)) continue
          if (isByChance) return []
        }
        return [`${where}: ${error instanceof Error ? error.message : String(error)}`]
      }
    }
  }

  /** Throws where the process outlives the walk. */
  async #dies(walked: Promise<unknown>): Promise<void> {
    const died = this.service.died().then(() => 'died')
    const first = await Promise.race([died, walked])
    if (first !== 'died') await Promise.race([died, sleep(AFTERWARDS_MS)])
    if (this.service.isUp) throw new NotReached('the failpoint was not reached')
    await walked
    await this.service.down()
  }

  /** Is killed where the scenario says, and leaves the rest to the next start. */
  async #leave({ prepare, walk, leftAt }: Scenario, key: string): Promise<void> {
    if (leftAt === undefined) throw new Error('the scenario does not say where it is left')
    await prepare(this)
    await this.#tell({ set: { ...leftAt, n: 1, action: { kind: 'kill' } } })
    await this.#dies(walk(this, key).catch(() => undefined))
  }

  async #insist(call: () => Promise<unknown>): Promise<void> {
    for (let tries = 1; ; tries++) {
      try {
        await call()
        return
      } catch (error) {
        if (tries === TRIES || !this.service.isUp) throw error
      }
    }
  }

  async #steps(): Promise<ReadonlySet<string>> {
    // Beside what a client can wait for, a walk ends with what is done in the background.
    await sleep(200)
    const heard = await this.service.ask<Heard>({ tell: true } satisfies Told)
    return new Set('steps' in heard ? heard.steps : [])
  }

  async #tell(told: Told): Promise<void> {
    await this.service.ask<Heard>(told)
  }

  #nextKey(): string {
    return `${this.#name}-${++this.#walks}`
  }

  // ------------------------------------------------------------------------------------------------------------- the checker

  async #faultsOf(id: string, { comesTo }: Scenario): Promise<string[]> {
    const task = await this.service.history(id)
    const { status, error, text, attempts } = task
    const faults = faultsOf(await this.service.events(id))
    const isAsItShould = comesTo.status === null ? FINAL.includes(status) : status === comesTo.status
    if (!isAsItShould) faults.push(`it is ${status}: ${JSON.stringify(error)}`)
    if (comesTo.text !== null && text !== comesTo.text) faults.push(`its text is ${JSON.stringify(text)}`)
    if (attempts.length > comesTo.maxAttempts) faults.push(`it has ${attempts.length} attempts`)
    if (attempts.some(({ finishedAt }) => finishedAt === null)) faults.push('an attempt has not ended')
    faults.push(...(await this.#faultyMarks(task)))
    faults.push(...(await this.#faultyArtifacts(id, status === 'COMPLETED' ? comesTo.artifacts : 0)))
    faults.push(...(await this.#leftovers()))
    faults.push(...(await this.#faultyAudit(task)))
    return faults
  }

  /** No attempt was ever begun twice by workers, and none that is not known. */
  async #faultyMarks({ id, attempts }: SeenHistory): Promise<readonly string[]> {
    const text = await readFile(join(this.#folder, 'marks'), 'utf8').catch(() => '')
    const marks = text.split('\n').filter((line) => line.includes(id))
    const known = attempts.flatMap(({ attempt }) => [`start ${id}.${attempt}`, `run ${id}.${attempt}`])
    return marks.flatMap((mark, index) => {
      if (marks.indexOf(mark) !== index) return [`${mark} happened twice`]
      return known.includes(mark) ? [] : [`${mark} is not known`]
    })
  }

  /** Every row has its file. A file whose row was never stored is no task's business any more. */
  async #faultyArtifacts(id: string, count: number): Promise<readonly string[]> {
    const { task } = await this.service.query<{ task: { artifacts: { id: string }[] } }>(
      'query ($id: ID!) { task(id: $id) { artifacts { id } } }',
      { id },
    )
    const files = await readdir(join(this.service.dataDir, 'artifacts'))
    return [
      ...(task.artifacts.length >= count ? [] : [`it has ${task.artifacts.length} artifacts`]),
      ...task.artifacts.flatMap((row) => (files.includes(row.id) ? [] : [`artifact ${row.id} has no file`])),
    ]
  }

  /** The log holds, and tells of the task what the task tells of itself. */
  async #faultyAudit({ id, status, attempts }: SeenHistory): Promise<readonly string[]> {
    const { auditVerification, auditLog } = await this.service.query<{
      auditVerification: { fault: { message: string } | null }
      auditLog: { edges: { node: { action: string; status: string | null } }[] }
    }>(
      `query ($id: ID!) {
        auditVerification { fault { message } }
        auditLog(first: 200, filter: { targetId: $id }) { edges { node { action status } } }
      }`,
      { id },
    )
    const moves = auditLog.edges.map(({ node }) => node).filter((node) => node.status !== null)
    const starts = moves.filter(({ action }) => action === 'task.start')
    return [
      ...(auditVerification.fault === null ? [] : [`the audit log: ${auditVerification.fault.message}`]),
      ...(moves[0]?.status === status ? [] : [`by the audit log it is ${moves[0]?.status}`]),
      ...(starts.length === attempts.length ? [] : [`the audit log tells of ${starts.length} attempts`]),
    ]
  }

  /** What is there of workers that the service does not know. */
  async #leftovers(): Promise<readonly string[]> {
    const workers = await this.service.workers()
    const left = async (): Promise<string[]> => {
      const folders = await readdir(join(this.service.dataDir, 'workers'))
      const containers = this.#runner === 'docker' ? await containersOf(this.service.dataDir) : []
      return [...folders, ...containers].filter((name) => !workers.some(({ id }) => name.endsWith(id)))
    }
    const deadline = performance.now() + EVENTUALLY.timeout
    while ((await left()).length > 0 && performance.now() < deadline) await sleep(EVENTUALLY.interval)
    return (await left()).map((name) => `${name} is left`)
  }
}

class NotReached extends Error {
  override readonly name = 'NotReached'
}

function textOf({ action, side, step }: Failpoint): string {
  return `${action.kind} ${side} ${step}`
}

/** The names of the containers that have something of this folder. */
async function containersOf(dataDir: string): Promise<readonly string[]> {
  const containers = (await callEngine('GET', '/containers/json?all=1')) as readonly {
    readonly Names: readonly string[]
    readonly Mounts: readonly { readonly Source: string }[]
  }[]
  return containers.flatMap(({ Names, Mounts }) =>
    Mounts.some(({ Source }) => Source.startsWith(dataDir)) ? (Names[0] ?? []) : [],
  )
}
