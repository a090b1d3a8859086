import { once } from 'node:events'
import { request, type IncomingMessage } from 'node:http'
import { text } from 'node:stream/consumers'
import { chmod, mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { CONNECTED, FINISHED, RUNNERS, noDocker, script } from './scripts.ts'
import { faultsOf, TestService, type SeenTask } from './service.ts'
import { callEngine } from './sessions.ts'

/** On no machine, and nowhere to be pulled from: nothing listens there. */
const UNREACHABLE_IMAGE = '127.0.0.1:1/team/worker:1'

/** The task's end, which has to say the same everywhere: in the task, in its last event and in its explanation. */
async function failureOf(service: TestService, kind: string): Promise<NonNullable<SeenTask['error']>> {
  const id = await service.submit(kind)
  const events = await service.events(id)
  expect(faultsOf(events)).toEqual([])
  const { status, error, explanation, exitCode } = await service.task(id)
  expect({ status, exitCode }).toEqual({ status: 'FAILED', exitCode: null })
  if (error === null) throw new Error(`task ${id} failed without an error`)
  expect(explanation).toBe(error.message)
  expect(events.at(-1)?.['reason']).toBe(error.message)
  return error
}

/** The folders and files in which the service keeps its workers. */
const workerFolders = (service: TestService): Promise<string[]> => readdir(join(service.dataDir, 'workers'))

async function folderOf(service: TestService, task: SeenTask): Promise<string> {
  const name = (await workerFolders(service)).find((entry) => entry.endsWith(task.worker?.id ?? '-'))
  if (name === undefined) throw new Error(`task ${task.id} has no worker's folder`)
  return join(service.dataDir, 'workers', name)
}

function processGroupOf(task: SeenTask): number {
  const pid = Number(task.worker?.containerId)
  if (!(pid > 1)) throw new Error(`task ${task.id} has no process`)
  return -pid
}

function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0)
  } catch {
    return false
  }
}

for (const { runner, skipped } of RUNNERS) {
  describe.skipIf(skipped)(`with the ${runner} runner`, () => {
    let service: TestService
    beforeAll(async () => {
      service = await TestService.start({
        runner,
        presets: {
          complete: script(`${CONNECTED}; ${FINISHED}`),
          long: script(`${CONNECTED}; sleep 600`),
          'no-program': script('', { command: ['/no/such/program'], local: ['/no/such/program'] }),
        },
      })
    })
    afterAll(() => service[Symbol.asyncDispose]())

    async function runningWorker(): Promise<SeenTask> {
      const id = await service.submit('long')
      await service.reached(id, 'RUNNING')
      await vi.waitFor(async () => {
        expect((await service.task(id)).worker?.containerId).not.toBeNull()
      })
      return service.task(id)
    }

    /** Takes the worker away behind the service's back; of processes only what is known of them. */
    async function loseWorker(task: SeenTask): Promise<void> {
      if (runner === 'docker')
        await callEngine('DELETE', `/containers/${task.worker?.containerId ?? ''}?force=1`)
      else await rm(await folderOf(service, task), { recursive: true })
    }

    test('a program that is not there fails with COMMAND_NOT_FOUND, which names it and says where to look', async () => {
      const { code, message } = await failureOf(service, 'no-program')
      expect(code).toBe('COMMAND_NOT_FOUND')
      expect(message).toContain('/no/such/program')
      expect(message).toMatch(/check/i)
    })

    test('a data folder that cannot be written fails with START_FAILED and names it, leaves nothing behind, and harms no later task', async () => {
      const cache = join(service.dataDir, 'cache')
      await rm(cache, { recursive: true, force: true })
      await writeFile(cache, 'not a folder')
      try {
        const { code, message } = await failureOf(service, 'complete')
        expect(code).toBe('START_FAILED')
        expect(message).toContain(cache)
        expect(message).toMatch(/check/i)
      } finally {
        await rm(cache)
      }
      await vi.waitFor(async () => {
        expect(await workerFolders(service)).toEqual([])
      })
      expect(await service.ended(await service.submit('complete'))).toMatchObject({ status: 'COMPLETED' })
    })

    test('a worker that vanished while the service was away fails with LOST', async () => {
      const task = await runningWorker()
      await service.down('SIGTERM')
      await loseWorker(task)
      if (runner === 'process') process.kill(processGroupOf(task), 'SIGKILL')
      await service.up()
      const events = await service.events(task.id)
      expect(faultsOf(events)).toEqual([])
      const { status, error, exitCode, attempt } = await service.task(task.id)
      expect({ status, code: error?.code, exitCode, attempt }).toEqual({
        status: 'FAILED',
        code: 'LOST',
        exitCode: null,
        attempt: 1,
      })
      expect(error?.message).toContain('its end was not seen')
      expect(await service.query('{ workers { id } }')).toEqual({ workers: [] })
    })

    test('a worker that is taken away while it is read fails its task, and nothing of it runs on', async () => {
      const task = await runningWorker()
      try {
        await loseWorker(task)
        const events = await service.events(task.id)
        expect(faultsOf(events)).toEqual([])
        const { status, error, exitCode } = await service.task(task.id)
        expect(status).toBe('FAILED')
        // An engine kills before it removes: whether its service sees the kill or only the hole is a race of the two.
        expect([
          { code: 'LOST', exitCode: null },
          ...(runner === 'docker' ? [{ code: 'WORKER_FAILED', exitCode: 137 }] : []),
        ]).toContainEqual({ code: error?.code, exitCode })
        if (runner === 'process') {
          await vi.waitFor(
            () => {
              expect(isAlive(processGroupOf(task)), 'the worker still runs').toBe(false)
            },
            { timeout: 3_000 },
          )
        }
      } finally {
        if (runner === 'process' && isAlive(processGroupOf(task)))
          process.kill(processGroupOf(task), 'SIGKILL')
      }
    })
  })
}

describe.skipIf(noDocker)('with an engine', () => {
  let folder: string
  let service: TestService
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'gpu-service-codes-'))
    const [volume, programs] = [join(folder, 'volume'), join(folder, 'programs')]
    await mkdir(volume)
    await mkdir(programs)
    const nvidiaSmi = join(programs, 'nvidia-smi')
    await writeFile(
      nvidiaSmi,
      `#!/bin/sh
echo '<nvidia_smi_log><gpu><uuid>GPU-00000000-0000-0000-0000-00000000beef</uuid><product_name>A card that is not there</product_name>
<fb_memory_usage><total>8192 MiB</total><used>0 MiB</used></fb_memory_usage></gpu></nvidia_smi_log>'
`,
    )
    await chmod(nvidiaSmi, 0o755)
    service = await TestService.start({
      runner: 'docker',
      env: {
        VOLUME_ROOTS: folder,
        GPUS: 'auto',
        PATH: `${programs}:${process.env['PATH'] ?? ''}`,
      },
      presets: {
        absent: script(CONNECTED, { docker_image: 'gpu-service-test/absent:1' }),
        unreachable: script(CONNECTED, { docker_image: UNREACHABLE_IMAGE, pull: 'missing' }),
        volume: script(`${CONNECTED}; ${FINISHED}`, { volumes: [{ source: volume, target: '/sets' }] }),
        'no-gpu': script(`${CONNECTED}; ${FINISHED}`, { gpus: { count: 1 } }),
        hungry: script(`${CONNECTED}; exec tail /dev/zero`, { resources: { memory: '32MiB' } }),
      },
    })
  })
  afterAll(async () => {
    await service[Symbol.asyncDispose]()
    await rm(folder, { recursive: true, force: true })
  })

  test('an image that is not there fails with IMAGE_NOT_FOUND, which names it and says how it gets there', async () => {
    const { code, message } = await failureOf(service, 'absent')
    expect(code).toBe('IMAGE_NOT_FOUND')
    expect(message).toContain('gpu-service-test/absent:1')
    expect(message).toContain('pull: missing')
  })

  test('an image whose registry does not answer fails with PULL_FAILED, which says why and how to try by hand', async () => {
    const { code, message } = await failureOf(service, 'unreachable')
    expect(code).toBe('PULL_FAILED')
    expect(message).toContain(`docker pull ${UNREACHABLE_IMAGE}`)
    expect(message).toContain('connection refused')
  })

  test('a volume whose folder has gone fails with START_FAILED, in the words of the engine and with what to do', async () => {
    expect(await service.ended(await service.submit('volume'))).toMatchObject({ status: 'COMPLETED' })
    const volume = join(folder, 'volume')
    await rm(volume, { recursive: true })
    try {
      const { code, message } = await failureOf(service, 'volume')
      expect(code).toBe('START_FAILED')
      expect(message).toContain(volume)
      expect(message).toContain('must see')
    } finally {
      await mkdir(volume)
    }
    expect(await service.ended(await service.submit('volume'))).toMatchObject({ status: 'COMPLETED' })
  })

  test('a GPU that the engine cannot hand over fails with GPU_UNAVAILABLE, names the toolkit and frees the GPU', async () => {
    const { code, message } = await failureOf(service, 'no-gpu')
    expect(code).toBe('GPU_UNAVAILABLE')
    expect(message).toContain('NVIDIA container toolkit')
    // Another failure of the same kind, not a task that waits for ever.
    expect(await failureOf(service, 'no-gpu')).toMatchObject({ code: 'GPU_UNAVAILABLE' })
  })

  test('a worker that takes more memory than its limit fails with OUT_OF_MEMORY', async () => {
    const id = await service.submit('hungry')
    expect(faultsOf(await service.events(id))).toEqual([])
    const { status, error, exitCode } = await service.task(id)
    expect({ status, code: error?.code, exitCode }).toEqual({
      status: 'FAILED',
      code: 'OUT_OF_MEMORY',
      exitCode: 137,
    })
    expect(error?.message).toContain('more memory than it may')
  })
})

describe('without an engine', () => {
  test('an image that no worker package is made for fails with NO_LOCAL_COMMAND and names all ways out', async () => {
    await using service = await TestService.start({
      runner: 'process',
      presets: { container: { docker_image: UNREACHABLE_IMAGE, gpus: { count: 0 } } },
    })
    const { code, message } = await failureOf(service, 'container')
    expect(code).toBe('NO_LOCAL_COMMAND')
    expect(message).toContain(UNREACHABLE_IMAGE)
    expect(message).toMatch(/`local` command.*worker package.*Docker/)
  })
})

describe('a service that is stopping', () => {
  test('refuses what is submitted over a connection that was open before with SHUTTING_DOWN', async () => {
    await using service = await TestService.start({
      runner: 'process',
      env: { LOG_LEVEL: 'info' },
      presets: { complete: script(FINISHED) },
    })
    const body = JSON.stringify({
      query: `mutation { submitTask(input: { presetId: "test/complete" }) {
        __typename ... on RefusedProblem { code message } } }`,
    })
    const call = request(service.url, {
      method: 'POST',
      headers: {
        'content-type': 'application/json',
        'content-length': Buffer.byteLength(body),
        // The service has taken up the request when it asks for the rest of it.
        expect: '100-continue',
      },
    })
    call.flushHeaders()
    await once(call, 'continue')
    const down = service.down('SIGTERM')
    await vi.waitFor(() => {
      expect(service.output).toContain('Stopping.')
    })
    call.end(body)
    const [answer] = (await once(call, 'response')) as [IncomingMessage]
    const said: unknown = JSON.parse(await text(answer))
    expect(said).toMatchObject({
      data: {
        submitTask: { code: 'SHUTTING_DOWN', message: expect.stringContaining('is stopping') as string },
      },
    })
    expect(await down).toBe(0)
  })
})
