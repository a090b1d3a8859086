import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { checkBooks, checkLeft } from '../src/aftermath.ts'
import { type Api, createApi } from '../src/api.ts'
import { Ledger } from '../src/ledger.ts'
import { Load } from '../src/load.ts'
import { Random } from '../src/random.ts'
import type { Script } from '../src/script.ts'
import { openSite, type Site } from '../src/site.ts'
import { openSubscriber } from '../src/subscriber.ts'
import { Timeline } from '../src/timeline.ts'
import type { Violation } from '../src/violation.ts'
import type { WatchedTask } from '../src/watched-task.ts'

/** A service over a private engine, with clients that check all that they see. */
export interface Stage extends AsyncDisposable {
  readonly site: Site
  readonly api: Api
  readonly timeline: Timeline
  readonly load: Load
  readonly violations: readonly Violation[]
  /** Submits and follows a task to its end and checks it; gives its outcome. */
  run(name: string, script: Partial<Script>): Promise<string | null>
  /** Ends the tasks that go on `until` there is a file of this name. */
  release(name: string): Promise<void>
  /** Closes the books over all lines of all tasks, and ends the service with all that is left of it. */
  close(): Promise<void>
}

export async function openStage(): Promise<Stage> {
  const violations: Violation[] = []
  const onViolation = (violation: Violation, story: readonly string[] = []): void => {
    violations.push({ ...violation, detail: [violation.detail, ...story].join('\n') })
  }
  const site = await openSite({ runner: 'docker', networks: 1, onViolation })
  const api = createApi(() => site.url(0))
  const subscribers = [openSubscriber(() => site.url(0)), openSubscriber(() => site.url(0))]
  const timeline = new Timeline()
  const ledger = new Ledger()
  const never = new AbortController()
  const seed = 'test'
  const load = new Load({
    ...{ seed, runner: 'docker' as const, api, subscribers, timeline, ledger, onViolation },
    closing: never.signal,
    giveUp: never.signal,
  })
  if (!(await site.service.up())) throw new Error(`the service does not start: ${site.service.output}`)
  return {
    site,
    api,
    timeline,
    load,
    violations,
    run: (name, script) => load.run(name, { ...STEADY, ...script }, new Random(name)),
    release: (name) => writeFile(join(site.markers, name), ''),
    async close() {
      await checkBooks({ load, api, ledger, seed, site, onViolation })
      await checkLeft({ site, api, isEngineEnded: true, onViolation })
    },
    async [Symbol.asyncDispose]() {
      for (const subscriber of subscribers) await subscriber[Symbol.asyncDispose]()
      await site[Symbol.asyncDispose]()
    },
  }
}

const STEADY: Script = {
  preset: 'plain',
  mode: 'one-off',
  input: { lines: 3, interval_ms: 10 },
  timeoutMs: 180_000,
  outcome: 'COMPLETED',
  cancel: null,
  followers: [{ delayMs: 500, skip: 3 }],
  twice: false,
}

/** Waits until each of so many tasks has printed on both of its streams since `since`. */
export async function untilAllSpeak(load: Load, count: number, since: number): Promise<void> {
  const speaks = ({ heardAt }: WatchedTask): boolean => heardAt.o > since && heardAt.e > since
  const deadline = Date.now() + 60_000
  while ([...load.live.values()].filter(speaks).length < count) {
    if (Date.now() > deadline) throw new Error(`only ${load.live.size} tasks speak`)
    await delay(10)
  }
}
