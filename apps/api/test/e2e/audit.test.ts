import { execFile } from 'node:child_process'
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import Database from 'better-sqlite3'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { CONNECTED, FINISHED, say, script } from './scripts.ts'
import { TestService } from './service.ts'

const run = promisify(execFile)
const root = fileURLToPath(new URL('../../../..', import.meta.url))

interface Entry {
  readonly seq: number
  readonly actor: { readonly kind: string; readonly address: string | null }
  readonly action: string
  readonly targetId: string | null
  readonly result: string
  readonly status: string | null
  readonly hash: string
}

let service: TestService
beforeAll(async () => {
  service = await TestService.start({
    runner: 'process',
    env: { GPUS: 'simulated:1x8192' },
    presets: {
      made: script(
        `${CONNECTED}; ${say('Hello')}; echo '{"event":"artifact","data":"aGVsbG8=","name":"hello.txt"}'; ${FINISHED}`,
      ),
      long: script(`${CONNECTED}; sleep 600`),
    },
  })
})
afterAll(() => service[Symbol.asyncDispose]())

/** Oldest first. */
async function log(filter: object = {}): Promise<readonly Entry[]> {
  const { auditLog } = await service.query<{ auditLog: { edges: { node: Entry }[] } }>(
    `query ($filter: AuditFilter) { auditLog(first: 200, filter: $filter) {
      edges { node { seq actor { kind address } action targetId result status hash } } } }`,
    { filter },
  )
  return auditLog.edges.map(({ node }) => node).reverse()
}

async function verification(head: string | null = null) {
  const { auditVerification } = await service.query<{
    auditVerification: { ok: boolean; entries: number; head: { seq: number; hash: string } }
  }>('query ($head: String) { auditVerification(head: $head) { ok entries head { seq hash } } }', { head })
  return auditVerification
}

/** Runs the command with the settings of the stopped service; gives what it prints and its exit code. */
async function audit(...args: readonly string[]): Promise<readonly [text: string, code: number]> {
  const command = [join(root, 'tools/audit.mjs'), ...args]
  const env = { ...process.env, DATA_DIR: service.dataDir, DATABASE_URL: '' }
  try {
    return [(await run(process.execPath, command, { cwd: root, env })).stdout, 0]
  } catch (error) {
    const { stdout, code } = error as { readonly stdout: string; readonly code: number }
    return [stdout, code]
  }
}

test('tells who did what, over a kill of the service, and what it tells can be verified', async () => {
  const { id } = await service.run('made')
  const long = await service.submit('long')
  await service.reached(long, 'RUNNING')
  const { id: gpu } = await service.gpu()
  await service.query('mutation ($id: ID!) { drainGpu(id: $id) { __typename } }', { id: gpu })
  await service.query('mutation { cancelTask(id: "no") { __typename } }')
  const { head } = await verification()

  await service.down('SIGKILL')
  await service.up()
  await service.cancel(long, 'enough')
  await service.ended(long)
  await service.query('mutation ($id: ID!) { deleteTask(id: $id) { __typename } }', { id: long })

  const told = (entries: readonly Entry[]) =>
    entries.map(({ actor, action, result, status }) => [actor.kind, action, result, status].join(' '))
  expect(told(await log({ targetId: id }))).toEqual([
    'local task.submit OK QUEUED',
    'service task.start OK STARTING',
    'service task.run OK RUNNING',
    'service task.end OK COMPLETED',
  ])
  expect(told(await log({ targetId: long }))).toEqual([
    'local task.submit OK QUEUED',
    'service task.start OK STARTING',
    'service task.run OK RUNNING',
    'local task.cancel OK ',
    'service task.end OK CANCELLED',
    'local task.remove OK REMOVED',
  ])
  expect(told(await log({ targetId: gpu }))).toEqual(['local gpu.drain OK '])
  expect(told(await log({ result: 'UNKNOWN_TASK' }))).toEqual(['local task.cancel UNKNOWN_TASK '])
  const local = await log({ actorKind: 'local' })
  expect(new Set(local.map(({ actor }) => actor.address))).toEqual(new Set(['127.0.0.1']))
  expect(await verification(`${head.seq}:${head.hash}`)).toMatchObject({
    ok: true,
    entries: (await log()).length,
  })
})

test('gives a bundle that is verified with nothing but its file and the key', async () => {
  const { id } = await service.run('made')
  const { service: info } = await service.query<{ service: { signingKey: { fingerprint: string } } }>(
    '{ service { signingKey { fingerprint publicKey } } }',
  )
  const response = await fetch(new URL(`/export/tasks/${id}/bundle`, service.url))
  expect(response.headers.get('content-disposition')).toBe(`attachment; filename="task-${id}.bundle.ndjson"`)
  const file = join(service.dataDir, 'task.bundle')
  await writeFile(file, Buffer.from(await response.arrayBuffer()))
  const args = [file, '--key', info.signingKey.fingerprint, '--artifacts', join(service.dataDir, 'artifacts')]
  const { stdout } = await run(process.execPath, [join(root, 'tools/verify-bundle.mjs'), ...args])
  expect(stdout).toContain('Artifact hello.txt is the file that the task made.')
})

test('is verified from the database of a stopped service, and found out where that was edited', async () => {
  const { head } = await verification()
  await service.down()
  const before = await readFile(join(service.dataDir, 'gpu-service.db'))
  expect(await audit('verify', '--head', `${head.seq}:${head.hash}`)).toEqual([
    expect.stringContaining(`Its head, to be kept elsewhere: ${head.seq}:${head.hash}`),
    0,
  ])
  expect((await audit('export'))[0].split('\n')).toHaveLength(head.seq + 1)
  expect((await readFile(join(service.dataDir, 'gpu-service.db'))).equals(before)).toBe(true)
  const database = new Database(join(service.dataDir, 'gpu-service.db'))
  database.exec(`UPDATE "AuditEntry" SET "actorName" = 'somebody' WHERE "seq" = 2`)
  database.close()
  expect(await audit('verify')).toEqual([expect.stringContaining('The first fault is at entry 2'), 1])
  const copy = join(service.dataDir, 'copy.db')
  await writeFile(copy, before)
  expect(await audit('verify', '--database', copy)).toEqual([expect.stringContaining('as it was written'), 0])
  await service.up()
  expect(await verification()).toMatchObject({ ok: false, entries: 1 })
})
