import { randomUUID } from 'node:crypto'
import { execFileSync, spawnSync } from 'node:child_process'
import { mkdtemp, rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import Database from 'better-sqlite3'
import { describe, expect, test, vi } from 'vitest'
import { CONNECTED, FINISHED, script } from './scripts.ts'
import { faultsOf, TestService } from './service.ts'

/** How long another program holds the database; by hand also longer. */
const LOCK_MS = Number(process.env['LOCK_SECONDS'] ?? 7) * 1_000
/** Longer than a submission waits for the lock. */
const PATIENCE_MS = 5_000

/** Numbers on stdout as fast as ten a second, for as long as the file is not there. */
const counting = (stop: string): string =>
  `${CONNECTED}; n=0; while [ ! -e ${stop} ]; do n=$((n+1)); echo "{\\"event\\":\\"text_delta\\",\\"delta\\":\\"$n \\"}"; sleep 0.1; done; ${FINISHED}`

interface Readiness {
  readonly status: number
  readonly checks: Readonly<Record<string, { readonly ok: boolean; readonly detail: string }>>
}

async function readiness(service: TestService): Promise<Readiness> {
  const response = await fetch(new URL('/readyz', service.url))
  const { checks } = (await response.json()) as Pick<Readiness, 'checks'>
  return { status: response.status, checks }
}

/** The first error of a submission, or `null` where it was taken. */
async function submission(service: TestService, key: string): Promise<Record<string, unknown> | null> {
  const response = await fetch(service.url, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({
      query:
        'mutation ($input: SubmitTaskInput!) { submitTask(input: $input) { ... on RefusedProblem { code message } } }',
      variables: { input: { presetId: 'test/short', idempotencyKey: key } },
    }),
  })
  const { errors, data } = (await response.json()) as {
    errors?: Record<string, unknown>[]
    data?: { submitTask: Record<string, unknown> } | null
  }
  if (errors !== undefined) return errors[0] ?? null
  return data?.submitTask['code'] === undefined ? null : data.submitTask
}

/** Its text is 1 2 3 … without a hole or a repeat. */
function expectCounted(text: string | null): void {
  const numbers = (text ?? '').trim().split(' ').map(Number)
  expect(numbers).toEqual(numbers.map((_, index) => index + 1))
}

describe('a database', () => {
  test(
    'that another program has locked holds tasks up, refuses new ones with a code, and loses and repeats nothing',
    async () => {
      const stop = join('/tmp', `stop-${process.pid}-locked`)
      await using service = await TestService.start({
        runner: 'process',
        presets: { count: script(counting(stop)), short: script(`${CONNECTED}; ${FINISHED}`) },
      })
      const id = await service.submit('count')
      await service.events(id, 0, ({ delta }) => delta === '5 ')
      const database = new Database(join(service.dataDir, 'gpu-service.db'))
      database.exec('BEGIN EXCLUSIVE')
      try {
        const { lastSeq } = await service.task(id)
        const lockedAt = performance.now()
        const refused = submission(service, 'a')
        expect(await readiness(service)).toMatchObject({ status: 503, checks: { database: { ok: false } } })
        expect(await refused).toMatchObject({
          extensions: { code: 'DATABASE_UNAVAILABLE' },
          message: expect.stringContaining('locked by another program') as string,
        })
        expect(performance.now() - lockedAt).toBeGreaterThan(PATIENCE_MS - 1_000)
        await vi.waitFor(() => {
          expect(performance.now() - lockedAt).toBeGreaterThan(LOCK_MS)
        }, LOCK_MS + 5_000)
        // Nothing is published that is not stored.
        expect((await service.task(id)).lastSeq).toBeLessThanOrEqual(lastSeq + 1)
      } finally {
        database.exec('ROLLBACK')
        database.close()
      }
      await vi.waitFor(async () => {
        expect(await readiness(service)).toMatchObject({ status: 200, checks: { database: { ok: true } } })
      }, 10_000)
      expect(await submission(service, 'a')).toBeNull()
      await writeFile(stop, '')
      const events = await service.events(id)
      await rm(stop)
      expect(faultsOf(events)).toEqual([])
      const task = await service.task(id)
      expect(task.status).toBe('COMPLETED')
      expectCounted(task.text)
    },
    LOCK_MS + 60_000,
  )

  test.skipIf(process.platform !== 'linux' || process.getuid?.() !== 0)(
    'whose disk is full holds tasks up, refuses new ones with a code, and goes on when there is room again',
    async () => {
      await using disk = await smallDisk(100)
      const [stop, go] = [join('/tmp', `stop-${process.pid}-full`), join('/tmp', `go-${process.pid}-full`)]
      await using service = await TestService.start({
        runner: 'process',
        presets: {
          count: script(counting(stop)),
          short: script(`${CONNECTED}; ${FINISHED}`),
          file: script(
            `${CONNECTED}; head -c 1000000 /dev/zero > "$OUTPUT_DIR/big"; echo '{"event":"worker","status":"working"}'; while [ ! -e ${go} ]; do sleep 0.1; done; echo '{"event":"artifact","path":"big"}'; ${FINISHED}`,
          ),
        },
        env: { DATA_DIR: join(disk.path, 'data'), SHUTDOWN: 'stop' },
      })
      const [counted, filed] = await Promise.all([service.submit('count'), service.submit('file')])
      await service.events(counted, 0, ({ delta }) => delta === '5 ')
      await service.events(filed, 0, ({ status }) => status === 'working')
      disk.fill()
      await vi.waitFor(async () => {
        const { status, checks } = await readiness(service)
        expect({ status, disk: checks['disk']?.ok, database: checks['database']?.ok }).toEqual({
          ...{ status: 503, disk: false, database: false },
        })
      }, 20_000)
      // Not even that it was refused can be written down.
      expect(await submission(service, 'b')).toMatchObject({
        extensions: { code: 'DATABASE_UNAVAILABLE' },
        message: expect.stringContaining('full') as string,
      })
      await writeFile(go, '')
      await vi.waitFor(() => {
        expect(service.output).toContain('Could not keep an artifact; trying again.')
      }, 20_000)
      await disk.free()
      await vi.waitFor(async () => {
        expect(await readiness(service)).toMatchObject({ status: 200, checks: { database: { ok: true } } })
      }, 20_000)
      await vi.waitFor(async () => {
        expect(await submission(service, 'b')).toBeNull()
      }, 10_000)
      await writeFile(stop, '')
      for (const id of [counted, filed]) {
        expect(faultsOf(await service.events(id))).toEqual([])
        expect((await service.task(id)).status).toBe('COMPLETED')
      }
      expectCounted((await service.task(counted)).text)
      expect((await service.events(filed)).filter(({ artifact }) => artifact !== undefined)).toHaveLength(1)
      await Promise.all([rm(stop), rm(go)])
    },
    120_000,
  )

  test.skipIf(process.getuid?.() !== 0)(
    'on a disk that is nearly full begins nothing new, and ends what has begun',
    { timeout: 60_000 },
    async () => {
      await using disk = await smallDisk(256)
      const go = join('/tmp', `go-${process.pid}-nearly`)
      await using service = await TestService.start({
        runner: 'process',
        presets: {
          long: script(`${CONNECTED}; while [ ! -e ${go} ]; do sleep 0.05; done; ${FINISHED}`),
          short: script(`${CONNECTED}; ${FINISHED}`),
        },
        env: { DATA_DIR: join(disk.path, 'data'), SHUTDOWN: 'stop', MAX_WORKERS: '1' },
      })
      const begun = await service.submit('long')
      await service.reached(begun, 'RUNNING')
      const waiting = await service.submit('short')
      await writeFile(join(disk.path, 'ballast'), Buffer.alloc(215_000_000))
      const full = /^The disk of the service's data is full: \d+ MB are free\./
      await vi.waitFor(async () => {
        expect(await submission(service, randomUUID())).toMatchObject({
          ...{ code: 'DISK_FULL', message: expect.stringMatching(full) as string },
        })
      }, 10_000)
      await writeFile(go, '')
      expect((await service.ended(begun)).status).toBe('COMPLETED')
      await vi.waitFor(async () => {
        expect((await service.task(waiting)).explanation).toMatch(full)
      }, 10_000)
      await disk.free()
      expect((await service.ended(waiting)).status).toBe('COMPLETED')
      expect(await submission(service, randomUUID())).toBeNull()
      await rm(go)
    },
  )

  test('that is gone at the start is not made anew: the service says so and ends', async () => {
    await using service = await TestService.start({
      runner: 'process',
      presets: { short: script(`${CONNECTED}; ${FINISHED}`) },
    })
    await service.run('short')
    await service.down()
    const file = join(service.dataDir, 'gpu-service.db')
    await rename(file, `${file}.away`)
    await expect(service.up()).rejects.toThrow(/gpu-service\.db was there before and is gone/)
    await rename(`${file}.away`, file)
    await service.up()
  })
})

interface SmallDisk extends AsyncDisposable {
  readonly path: string
  /** Leaves not a byte. */
  fill(): void
  free(): Promise<void>
}

/** A disk of so many megabytes, in memory. */
async function smallDisk(megabytes: number): Promise<SmallDisk> {
  const path = await mkdtemp(join('/tmp', 'gpu-service-disk-'))
  execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${megabytes}m`, 'tmpfs', path])
  const ballast = join(path, 'ballast')
  return {
    path,
    fill() {
      // It ends with an error when nothing more goes in.
      const { status } = spawnSync('dd', ['if=/dev/zero', `of=${ballast}`, 'bs=4096'], { stdio: 'ignore' })
      expect(status).not.toBe(0)
    },
    free: () => rm(ballast),
    async [Symbol.asyncDispose]() {
      execFileSync('umount', ['-l', path])
      await rm(path, { recursive: true })
    },
  }
}
