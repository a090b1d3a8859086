import { setTimeout as delay } from 'node:timers/promises'
import Database from 'better-sqlite3'
import type { Api } from './api.ts'
import { containerGrips, processGrips } from './grips.ts'
import type { Random } from './random.ts'
import type { EngineSite, Site } from './site.ts'
import type { Timeline } from './timeline.ts'
import type { Violation } from './violation.ts'

export interface DeedsOptions {
  readonly site: Site
  readonly api: Api
  readonly timeline: Timeline
  readonly random: Random
  /** Aborted when nothing more is to be done; what was begun is still undone. */
  readonly closing: AbortSignal
  /** Called right before the service is killed. */
  readonly onKill: () => void
  readonly onViolation: (violation: Violation) => void
}

/** How many times a service that was not killed may fail to start, while something else holds it up. */
const MAX_START_TRIES = 20

/** All hands that break things, each at its own pace; resolves when they are done and everything is whole again. */
export async function doDeeds(options: DeedsOptions): Promise<void> {
  const { site, onViolation } = options
  const hands = [
    breakService(options),
    ...(site.engine === null ? [] : [breakEngine(options, site.engine)]),
    touchWorkers(options),
    lockDatabase(options),
    ...site.networks.map((_, network) => breakNetwork(options, network)),
  ]
  // A hand that slips ends the run; the others put back what they have taken.
  const told = hands.map((hand) =>
    hand.catch((error: unknown) => {
      const detail = error instanceof Error ? (error.stack ?? error.message) : String(error)
      onViolation({ rule: 'hand', taskId: null, detail })
    }),
  )
  await Promise.all(told)
}

/** Does something again and again, after a wait of `meanMs` on average. */
async function repeatedly(
  { closing, random }: DeedsOptions,
  name: string,
  meanMs: number,
  act: (random: Random) => Promise<void>,
): Promise<void> {
  const own = random.fork(name)
  for (let n = 1; ; n++) {
    const turn = own.fork(String(n))
    await delay(turn.wait(meanMs), undefined, { signal: closing }).catch(() => undefined)
    if (closing.aborted) return
    await act(turn)
  }
}

async function breakService(options: DeedsOptions): Promise<void> {
  const { site, timeline, onKill, onViolation } = options
  const { service } = site
  await repeatedly(options, 'service', 8_000, async (random) => {
    switch (random.weighted({ kill: 5, burst: 2, 'kill at start': 2, stop: 3, suspend: 3 })) {
      case 'kill': {
        onKill()
        const whole = timeline.begin('service killed')
        await service.down('SIGKILL')
        await delay(random.pick([0, 0, 200, 1_000]))
        await startService(options)
        whole()
        return
      }
      case 'burst':
      case 'kill at start': {
        onKill()
        for (let left = random.int(2, 5); left > 0; left--) {
          const whole = timeline.begin('service killed', 'maybe before it was up')
          await service.down('SIGKILL')
          const starting = service.up()
          await delay(random.int(50, 2_000))
          if (left > 1) void starting
          else if (!(await starting)) await startService(options)
          whole()
        }
        return
      }
      case 'stop': {
        const whole = timeline.begin('service stopped')
        const code = await service.down('SIGTERM')
        if (code !== 0)
          onViolation({
            rule: 'stop',
            taskId: null,
            detail: `SIGTERM ended it with ${code}: ${service.output}`,
          })
        await startService(options)
        whole()
        return
      }
      case 'suspend': {
        const whole = timeline.begin('service suspended')
        service.signal('SIGSTOP')
        await delay(random.int(500, 6_000))
        service.signal('SIGCONT')
        whole()
      }
    }
  })
}

/** Starts it, and again where something that is broken at the moment keeps it from starting. */
async function startService({ site, onViolation, timeline }: DeedsOptions): Promise<void> {
  const { service } = site
  for (let tries = 1; !(await service.up()); tries++) {
    const disturbed = timeline.during(Date.now(), Date.now()).some(({ kind }) => kind === 'database locked')
    if (!disturbed || tries === MAX_START_TRIES) {
      onViolation({
        rule: 'start',
        taskId: null,
        detail: `it does not start: ${service.output.slice(-2_000)}`,
      })
      return
    }
    await delay(300)
  }
}

async function breakEngine(options: DeedsOptions, { daemon, line }: EngineSite): Promise<void> {
  const { timeline } = options
  await repeatedly(options, 'engine', 15_000, async (random) => {
    switch (random.weighted({ TERM: 3, KILL: 3, hang: 3, cut: 3 })) {
      case 'TERM': {
        const whole = timeline.begin('engine stopped')
        await daemon.stop('TERM')
        await delay(random.pick([0, 0, 1_000, 5_000, 20_000]))
        await daemon.start()
        whole()
        return
      }
      case 'KILL': {
        const whole = timeline.begin('engine killed')
        await daemon.stop('KILL')
        await delay(random.pick([0, 0, 1_000, 5_000, 20_000]))
        await daemon.start()
        whole()
        return
      }
      case 'hang': {
        const whole = timeline.begin('engine hangs')
        line.stall(true)
        await delay(random.int(500, 12_000))
        line.stall(false)
        whole()
        return
      }
      case 'cut':
        timeline.begin('engine connections cut')()
        line.cut()
    }
  })
}

/** What people do to workers by hand. */
async function touchWorkers(options: DeedsOptions): Promise<void> {
  const { site, api, timeline } = options
  const grips = () => (site.engine === null ? processGrips(api) : containerGrips(site.engine))
  await repeatedly(options, 'workers', 5_000, async (random) => {
    const act = random.weighted({ killed: 3, removed: 2, stopped: 1, paused: 3 })
    const choice = random.next()
    const pauseMs = random.int(200, 3_000)
    // The engine, or the service, may be away itself.
    const all = await grips().catch(() => [])
    const grip = all[Math.floor(choice * all.length)]
    if (grip === undefined) return
    const whole = timeline.begin(`worker ${act}`, '', grip.workerId)
    try {
      switch (act) {
        case 'killed':
          await grip.kill()
          break
        case 'removed':
          await grip.remove()
          break
        case 'stopped':
          await grip.stop()
          break
        case 'paused':
          await grip.pause()
          await delay(pauseMs)
          await grip.goOn()
      }
    } catch {
      // It may have ended by itself, or the engine gone away.
    }
    whole()
  })
}

async function lockDatabase(options: DeedsOptions): Promise<void> {
  const { site, timeline } = options
  await repeatedly(options, 'database', 20_000, async (random) => {
    const holdMs = random.int(500, 6_000)
    const database = new Database(site.databaseFile, { timeout: 5 })
    try {
      while (!takeLock(database)) await delay(5)
      const whole = timeline.begin('database locked')
      await delay(holdMs)
      database.exec('COMMIT')
      whole()
    } finally {
      database.close()
    }
  })
}

function takeLock(database: Database.Database): boolean {
  try {
    database.exec('BEGIN EXCLUSIVE')
    return true
  } catch {
    return false
  }
}

async function breakNetwork(options: DeedsOptions, network: number): Promise<void> {
  const { site, timeline } = options
  const line = site.networks[network]
  if (line === undefined) return
  await repeatedly(options, `network ${network}`, 4_000 * (network + 1), async (random) => {
    if (random.chance(0.7)) {
      timeline.begin('network cut', String(network))()
      line.cut()
      return
    }
    const whole = timeline.begin('network stalled', String(network))
    line.stall(true)
    await delay(random.int(200, 3_000))
    line.stall(false)
    if (random.chance(0.5)) line.cut()
    whole()
  })
}
