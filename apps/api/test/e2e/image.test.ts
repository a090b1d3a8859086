import { execFile } from 'node:child_process'
import { statfsSync } from 'node:fs'
import { readdir, rename, writeFile } from 'node:fs/promises'
import { promisify } from 'node:util'
import { privateEngineObstacle } from '@gpu-service/test-engine'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { compose, ComposedService, type ComposedTask, SOCKET_GROUP } from './composed-service.ts'
import { CONNECTED, countingScript, FINISHED, numbersTo, script } from './scripts.ts'
import { FINAL } from './service.ts'

const run = promisify(execFile)
const LINES = 400
const WAIT = { timeout: 40_000, interval: 250 }
/** Where nobody has made it yet on this machine, the base image is made first. */
const START_TIMEOUT_MS = 300_000

const PRESETS = {
  // Reads what is mounted into it, and leaves a folder of its own behind.
  files: script(
    `${CONNECTED}; mkdir -p $OUTPUT_DIR/deep/er; cp $INPUT_FILE $OUTPUT_DIR/deep/er/input.json; chmod 600 $OUTPUT_DIR/deep/er/input.json
     echo "{\\"event\\":\\"text\\",\\"content\\":\\"$(cat /models/weights)\\"}"; echo '{"event":"artifact","path":"deep/er/input.json"}'; ${FINISHED}`,
  ),
  counting: countingScript(LINES, {}, { pauseMs: 20 }),
}

describe.skipIf(privateEngineObstacle() !== null || compose === undefined)('the service as its image', () => {
  let service: ComposedService
  beforeAll(async () => {
    service = await ComposedService.start(PRESETS)
    await writeFile(service.pathOf('models/weights'), 'weights', { mode: 0o644 })
  }, START_TIMEOUT_MS)
  afterAll(() => service[Symbol.asyncDispose]())

  const ended = (id: string): Promise<ComposedTask> =>
    vi.waitFor(async () => {
      const task = await service.task(id)
      expect(FINAL).toContain(task.status)
      return task
    }, WAIT)

  test('becomes healthy, says that it is ready, sees what it needs, and may do little', async () => {
    await vi.waitFor(async () => {
      const { Health } = (await service.container.inspect()).State
      expect(Health?.Status, JSON.stringify(Health?.Log)).toBe('healthy')
    }, WAIT)
    expect(await service.log()).toMatch(/Ready: http:\S+\/graphql$/m)
    const { output } = await service.exec('cat', '/proc/self/status')
    expect(output).toMatch(/^Uid:\s+65534\s+65534\s/m)
    expect(output).toMatch(new RegExp(`^Groups:.*\\b${SOCKET_GROUP}\\b`, 'm'))
    expect(output).toMatch(/^CapEff:\s+0+\s*$/m)
    expect(output).toMatch(/^NoNewPrivs:\s+1\s*$/m)
    expect((await service.exec('touch', '/app/file')).output).toContain('Read-only file system')
    const { dataRoot } = service.engine
    const disk = await service.exec('stat', '-f', '-c', '%b', dataRoot)
    expect(disk.output.trim()).toBe(String(statfsSync(dataRoot).blocks))
    const { HostConfig } = await service.container.inspect()
    expect(HostConfig.PortBindings).toEqual({ '4000/tcp': [{ HostIp: '127.0.0.1', HostPort: '4000' }] })
  })

  test('serves nobody without a key, and makes one for who is on its machine', async () => {
    const ask = (key: string): string =>
      `fetch('http://127.0.0.1:4000/graphql?query={viewer{role}}', { headers: { authorization: 'Bearer ${key}', 'apollo-require-preflight': 'yes' } }).then((response) => response.text()).then(console.log)`
    expect((await service.exec('node', '-e', ask('none'))).output).toContain('UNAUTHENTICATED')
    const command = ['node', '/app/apps/api/dist/main.js', 'keys', 'create', '--name', 'x', '--role', 'read']
    const [key = ''] = /\bgpu_\w+/.exec((await service.exec(...command)).output) ?? []
    expect((await service.exec('node', '-e', ask(key))).output).toContain('READ')
  })

  test('runs a task in a worker beside it, on the same folders, and leaves nothing of it there', async () => {
    const id = await service.submit('files', { input: { prompt: 'hello' } })
    expect(await ended(id)).toMatchObject({
      status: 'COMPLETED',
      text: 'weights',
      artifacts: [{ name: 'input.json' }],
    })
    await vi.waitFor(async () => {
      expect(await readdir(service.pathOf('data/workers'))).toEqual([])
    }, WAIT)
  })

  test('is started again when it is killed, and takes up its worker', async () => {
    const id = await service.submit('counting')
    await vi.waitFor(async () => {
      expect((await service.task(id)).status).toBe('RUNNING')
    }, WAIT)
    const { output } = await service.exec('cat', '/proc/1/task/1/children')
    const [child = ''] = output.trim().split(' ')
    const { StartedAt } = (await service.container.inspect()).State
    expect(await service.exec('sh', '-c', `kill -9 ${child}`)).toMatchObject({ exitCode: 0 })
    await vi.waitFor(async () => {
      expect((await service.container.inspect()).State).not.toMatchObject({ StartedAt })
    }, WAIT)
    const task = await ended(id)
    expect(task).toMatchObject({ status: 'COMPLETED', text: numbersTo(LINES).join('') })
    expect(task.attempts).toHaveLength(1)
    expect((await service.container.inspect()).RestartCount).toBe(1)
  })

  test('is backed up from within, stops in order, and is made anew from its backup', async () => {
    const id = await service.submit('files', { input: { prompt: 'kept' } })
    await ended(id)
    const command = '/app/apps/api/dist/backup-command.js'
    const backup = await service.exec('node', command, service.pathOf('backup/first'))
    expect(backup.output).toContain('the database, looked through, and 2 artifact(s)')
    expect(backup.exitCode).toBe(0)
    expect((await readdir(service.pathOf('backup/first'))).sort()).toEqual(['artifacts', 'gpu-service.db'])

    const later = await service.submit('files', { input: { prompt: 'lost' } })
    await ended(later)
    await service.compose('stop')
    expect((await service.container.inspect()).State).toMatchObject({ Status: 'exited', ExitCode: 0 })
    await service.compose('down')
    await rename(service.pathOf('data'), service.pathOf('data.before'))
    await run('cp', ['-a', service.pathOf('backup/first'), service.pathOf('data')])
    await service.compose('up', '-d')
    expect(await ended(id)).toMatchObject({ status: 'COMPLETED', text: 'weights' })
    await expect(service.task(later)).rejects.toThrow('there is no task')
    const next = await service.submit('files', { input: { prompt: 'next' } })
    expect(await ended(next)).toMatchObject({ status: 'COMPLETED' })
  })
})
