import { execFile } from 'node:child_process'
import { cp, mkdtemp, mkdir, readdir, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { CONNECTED, countingScript, deltasOf, FINISHED, numbersTo, say, script } from './scripts.ts'
import { FINAL, TestService } from './service.ts'

const root = join(import.meta.dirname, '../../../..')
const LINES = 2_000

const presets = {
  made: script(
    `${CONNECTED}; ${say('Hello')}; echo '{"event":"artifact","data":"aGVsbG8=","name":"hello.txt"}'; ${FINISHED}`,
  ),
  counting: countingScript(LINES, {}, { pauseMs: 2 }),
}

interface Ran {
  readonly exitCode: number
  readonly output: string
}

/** Runs `npm run backup` as an administrator does. */
function backUp(dataDir: string, ...args: readonly string[]): Promise<Ran> {
  const env = { PATH: process.env['PATH'], HOME: process.env['HOME'], DATA_DIR: dataDir }
  return new Promise((resolve) => {
    execFile(
      process.execPath,
      [join(root, 'tools/backup.mjs'), ...args],
      { env },
      (error, stdout, stderr) => {
        resolve({ exitCode: error === null ? 0 : Number(error.code), output: stdout + stderr })
      },
    )
  })
}

describe('a backup', () => {
  let folder: string
  let service: TestService
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'gpu-service-backup-'))
    service = await TestService.start({ runner: 'process', presets })
  })
  afterAll(async () => {
    await service[Symbol.asyncDispose]()
    await rm(folder, { recursive: true })
  })

  async function download(of: TestService, id: string): Promise<string> {
    const { task } = await of.query<{ task: { artifacts: readonly { url: string }[] } }>(
      `query ($id: ID!) { task(id: $id) { artifacts { url } } }`,
      { id },
    )
    return (await fetch(new URL(task.artifacts[0]?.url ?? '', of.url))).text()
  }

  test('made in mid-stream is a whole installation, and the service goes on as if nothing had been', async () => {
    const done = await service.run('made')
    const running = await service.submit('counting')
    await service.events(running, 0, ({ __typename }) => __typename === 'TextDeltaEvent')
    const backup = join(folder, 'in-mid-stream')
    expect(await backUp(service.dataDir, backup)).toEqual({
      exitCode: 0,
      output: `${backup}: the database, looked through, and 1 artifact(s)\n`,
    })
    expect((await stat(backup)).mode & 0o777).toBe(0o700)
    expect((await stat(join(backup, 'gpu-service.db'))).mode & 0o777).toBe(0o600)
    expect(deltasOf(await service.events(running))).toEqual(numbersTo(LINES))

    const later = await service.run('made')
    const events = await service.events(done.id)
    await service.down()
    const restored = join(folder, 'restored')
    await cp(backup, restored, { recursive: true })
    {
      await using second = await TestService.start({
        runner: 'process',
        presets,
        env: { DATA_DIR: restored },
      })
      expect(await second.events(done.id)).toEqual(events)
      expect(await download(second, done.id)).toBe('hello')
      await expect(second.task(later.id)).rejects.toThrow('there is no task')
      // Its worker was the other one's: what it had said until then is there, and it is over.
      const { status } = await second.ended(running)
      expect(FINAL).toContain(status)
      const said = deltasOf(await second.events(running))
      expect(said.length).toBeGreaterThan(0)
      expect(said).toEqual(numbersTo(LINES).slice(0, said.length))
      expect(await second.run('made')).toMatchObject({ status: 'COMPLETED' })
    }
    await service.up()
    expect(await download(service, later.id)).toBe('hello')
  })

  test('can be made of a service that is stopped, and leaves its data folder as it was', async () => {
    await service.down()
    const names = await readdir(service.dataDir)
    expect(await backUp(service.dataDir, join(folder, 'stopped'))).toMatchObject({ exitCode: 0 })
    expect(await readdir(service.dataDir)).toEqual(names)
    await service.up()
  })

  test('never goes into a folder that is there, nor says that it is one where it is not', async () => {
    await mkdir(join(folder, 'taken'))
    expect(await backUp(service.dataDir, join(folder, 'taken'))).toMatchObject({
      exitCode: 1,
      output: expect.stringContaining('is there already') as string,
    })
    await mkdir(join(folder, 'begun.partial'))
    expect(await backUp(service.dataDir, join(folder, 'begun'))).toMatchObject({
      exitCode: 1,
      output: expect.stringContaining('another backup is under way, or was broken off') as string,
    })
    expect(await backUp(join(folder, 'nowhere'), join(folder, 'empty'))).toMatchObject({
      exitCode: 1,
      output: expect.stringContaining('nowhere is no data folder of a service') as string,
    })
    const damaged = join(folder, 'damaged')
    await mkdir(join(damaged, 'artifacts'), { recursive: true })
    await writeFile(join(damaged, 'gpu-service.db'), 'SQLite format 3\0'.padEnd(8_192, 'x'))
    expect(await backUp(damaged, join(folder, 'empty'))).toMatchObject({
      exitCode: 1,
      output: expect.stringContaining('There is no backup. The file is not a database') as string,
    })
    expect((await readdir(folder)).filter((name) => name.startsWith('empty'))).toEqual([])
    expect(await backUp(service.dataDir)).toMatchObject({ exitCode: 2 })
  })
})
