import { setTimeout as delay } from 'node:timers/promises'
import Database from 'better-sqlite3'
import type { Api } from './api.ts'
import type { Ledger } from './ledger.ts'
import { digestOf, type Load } from './load.ts'
import { marksIn } from './marks.ts'
import type { Site } from './site.ts'
import type { Violation } from './violation.ts'

/** How long after the last task something of it may still be there. */
const LEFT_MS = 60_000

interface Aftermath {
  readonly site: Site
  readonly api: Api
  readonly onViolation: (violation: Violation) => void
}

/** Once all tasks have ended: what was told stays told, nothing is there that nobody has asked for, and the books are closed. */
export async function checkBooks(
  options: Aftermath & { readonly load: Load; readonly ledger: Ledger; readonly seed: string },
): Promise<void> {
  const { site, api, load, ledger, seed, onViolation } = options
  const ids = new Set(await api.idsOf(seed))
  for (const id of ids)
    if (!load.told.has(id))
      onViolation({ rule: 'idempotency', taskId: id, detail: 'nobody was told of this task' })
  const workers = new Set<string>()
  for (const [id, { digest, workerIds }] of load.told) {
    if (!ids.has(id)) onViolation({ rule: 'lost', taskId: id, detail: 'the task is not there any more' })
    const { events } = await load.read(id)
    if (digestOf(events) !== digest)
      onViolation({ rule: 'changed', taskId: id, detail: 'its events are not what they were at its end' })
    for (const workerId of workerIds) workers.add(workerId)
  }
  // What a session has said while none of its tasks could be meant.
  for (const workerId of workers)
    for (const { text } of await api.workerLog(workerId))
      for (const mark of marksIn(text))
        for (const violation of ledger.enter(mark, `the log of worker ${workerId}`)) onViolation(violation)
  for (const violation of ledger.missing()) onViolation(violation)
  for (const detail of await site.begunTwice()) onViolation({ rule: 'begun twice', taskId: null, detail })
}

/** What is on the engine beside warm sessions. */
export async function leftOn(site: Site, api: Api): Promise<readonly string[]> {
  const warm = new Set((await api.liveWorkers()).filter(({ mode }) => mode === 'SESSION').map(({ id }) => id))
  const containers = (await site.engine?.containers()) ?? []
  return containers
    .filter(({ workerId, state }) => !warm.has(workerId) || state !== 'running')
    .map(({ name, state }) => `${name} is ${state}`)
}

/**
 * Nothing is left on the engine but warm sessions, and after `SHUTDOWN=stop` nothing at all; the database is whole. Ends the service.
 * @param isEngineEnded The engine was ended at some time.
 * @returns How many processes of workers live that the engine knows nothing of.
 */
export async function checkLeft({
  site,
  api,
  isEngineEnded,
  onViolation,
}: Aftermath & { readonly isEngineEnded: boolean }): Promise<number> {
  const { service, engine, databaseFile } = site
  const fault = (rule: string, detail: string): void => {
    onViolation({ rule, taskId: null, detail })
  }
  const deadline = Date.now() + LEFT_MS
  let left = await leftOn(site, api)
  while (left.length > 0 && Date.now() < deadline) {
    await delay(500)
    left = await leftOn(site, api)
  }
  for (const detail of left) fault('left', detail)

  await service.down('SIGTERM')
  if (!(await service.up({ SHUTDOWN: 'stop' }))) fault('start', service.output.slice(-2_000))
  await service.down('SIGTERM')
  for (const { name, state } of (await engine?.containers()) ?? [])
    fault('left', `${name} is ${state} after SHUTDOWN=stop`)
  const orphans = await site.liveProcesses()
  // What an engine has started in the moment in which it was ended it knows nothing of afterwards, and nobody else can end it.
  if (!isEngineEnded) for (const detail of orphans) fault('left', `${detail} of a worker lives on`)

  const database = new Database(databaseFile, { readonly: true })
  const integrity = database.pragma('integrity_check', { simple: true })
  const foreignKeys = database.pragma('foreign_key_check')
  database.close()
  if (integrity !== 'ok' || !Array.isArray(foreignKeys) || foreignKeys.length > 0)
    fault('database', JSON.stringify({ integrity, foreignKeys }))
  return orphans.length
}
