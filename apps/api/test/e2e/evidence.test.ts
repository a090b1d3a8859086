import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { CONNECTED, FINISHED, noDocker, RUNNERS, script } from './scripts.ts'
import { TestService, type PresetSource } from './service.ts'
import { callEngine } from './sessions.ts'

interface Evidence {
  readonly cause: string
  readonly diagnosis: string
  readonly signal: string | null
  readonly oomKilled: boolean
  readonly stderr: readonly string[]
  readonly stdout: readonly string[]
  readonly imageDigest: string | null
  readonly spec: Readonly<Record<string, unknown>>
  readonly gpuReadings: readonly { readonly gpuId: string; readonly memoryUsedMb: number | null }[]
}
interface SeenFailure {
  readonly status: string
  readonly exitCode: number | null
  readonly evidence: Evidence | null
}

const EVIDENCE =
  'cause diagnosis signal oomKilled stderr stdout imageDigest spec gpuReadings { gpuId at memoryUsedMb utilizationPercent }'

async function attemptsOf(service: TestService, id: string): Promise<readonly SeenFailure[]> {
  const { task } = await service.query<{ task: { attempts: SeenFailure[] } }>(
    `query ($id: ID!) { task(id: $id) { attempts { status exitCode evidence { ${EVIDENCE} } } } }`,
    { id },
  )
  return task.attempts
}

/** Of the one attempt of a task that was run to its end, once its container is gone. */
async function evidenceOf(service: TestService, id: string): Promise<SeenFailure & { evidence: Evidence }> {
  await service.events(id)
  const { attempts } = await service.history(id)
  await vi.waitFor(async () => {
    expect((await service.workers()).map((worker) => worker.id)).not.toContain(attempts[0]?.workerId)
  })
  const [attempt] = await attemptsOf(service, id)
  if (attempt?.evidence == null) throw new Error(`task ${id} left no evidence`)
  return { ...attempt, evidence: attempt.evidence }
}

const failed = (message: string): string =>
  `echo '{"event":"finish","status":"failed","error":{"code":"WORKER_FAILED","message":"${message}"}}'`

/** Kinds of failure that any runner can bring about: what is run, and what it must be taken for. */
const EVERYWHERE: Readonly<Record<string, readonly [PresetSource, cause: string, says: RegExp]>> = {
  exit: [script(`${CONNECTED}; echo boom >&2; exit 3`), 'EXITED', /code 3.*boom/],
  'no-finish': [script(CONNECTED), 'NO_FINISH', /finish event/],
  reported: [script(`${CONNECTED}; ${failed('the weights are corrupt')}`), 'REPORTED', /weights are corrupt/],
  'gpu-memory': [
    script(`${CONNECTED}; ${failed('CUDA out of memory. Tried to allocate 2.00 GiB')}`),
    'GPU_OUT_OF_MEMORY',
    /gpus\.memory/,
  ],
  'gpu-broken': [
    script(`${CONNECTED}; ${failed('CUDA error: an illegal memory access was encountered')}`),
    'GPU_BROKEN',
    /Xid/,
  ],
  segfault: [script(`${CONNECTED}; kill -SEGV $$`), 'CRASHED', /SIGSEGV/],
  'no-file': [
    script(`${CONNECTED}; cat /models/none.gguf || exit 1`),
    'FILE_MISSING',
    /none\.gguf|No such file/,
  ],
  'no-module': [
    script(`echo "ModuleNotFoundError: No module named 'torch'" >&2; exit 1`),
    'DEPENDENCY_MISSING',
    /No module named 'torch'/,
  ],
  'too-long': [
    script(`${CONNECTED}; sleep 600`, { timeouts: { run: '1s', stop_grace: '1s' } }),
    'RUN_TIMEOUT',
    /timeouts\.run/,
  ],
  silent: [
    script(`${CONNECTED}; sleep 600`, { timeouts: { silence: '1s', stop_grace: '1s' } }),
    'SILENCE_TIMEOUT',
    /timeouts\.silence/,
  ],
  'no-program': [
    script('', { command: ['/no/such/program'], local: ['/no/such/program'] }),
    'COMMAND_MISSING',
    /\/no\/such\/program/,
  ],
}

/** Kinds that need a container. */
const IN_DOCKER: typeof EVERYWHERE = {
  'no-image': [script(FINISHED, { docker_image: 'not/there:1' }), 'IMAGE_MISSING', /build\.sh|docker load/],
  'host-memory': [
    script(`${CONNECTED}; tail /dev/zero`, { resources: { memory: '16MiB' } }),
    'OUT_OF_MEMORY',
    /16 MB of resources\.memory/,
  ],
  'read-only': [script(`${CONNECTED}; touch /x || exit 1`), 'CONFINED', /allow\.writable_root/],
  'no-network': [
    script(`${CONNECTED}; wget http://example.invalid/model || exit 1`),
    'CONFINED',
    /network: bridge/,
  ],
  'no-space': [
    script(`${CONNECTED}; dd if=/dev/zero of=/tmp/x bs=1024 count=4096 || exit 1`, {
      resources: { tmp: '1MiB' },
    }),
    'DISK_FULL',
    /1 MB \(resources\.tmp\)/,
  ],
  'no-processes': [
    script(`${CONNECTED}; for i in 1 2 3 4 5 6 7 8; do sleep 5 & done; exit 1`, {
      resources: { processes: 4 },
    }),
    'CONFINED',
    /resources\.processes/,
  ],
}

for (const { runner, skipped } of RUNNERS) {
  describe.skipIf(skipped)(`what is kept of failures with the ${runner} runner`, () => {
    const table = runner === 'docker' ? { ...EVERYWHERE, ...IN_DOCKER } : EVERYWHERE
    let service: TestService
    const ids = new Map<string, string>()

    beforeAll(async () => {
      service = await TestService.start({
        runner,
        presets: {
          ...Object.fromEntries(Object.entries(table).map(([kind, [preset]]) => [kind, preset])),
          long: script(`${CONNECTED}; echo '{"event":"text_delta","delta":"a"}'; echo one >&2; sleep 600`),
          'on-gpu': script(`${CONNECTED}; echo first >&2; exit 5`, {
            gpus: { count: 1 },
            env_vars: { TOKEN: 'secret' },
          }),
          twice: script(`${CONNECTED}; echo "$TASK_ID" >&2; exit 4`, {
            retry: { max_attempts: 2, backoff: '1ms', on: ['worker_failed'] },
          }),
        },
        env: { GPUS: 'simulated:1x1000' },
      })
      for (const kind of Object.keys(table)) ids.set(kind, await service.submit(kind))
    })
    afterAll(() => service[Symbol.asyncDispose]())

    test.each(Object.entries(table))('%s is recognised', async (kind, [, cause, says]) => {
      const { evidence } = await evidenceOf(service, ids.get(kind) ?? '')
      expect(evidence).toMatchObject({ cause, diagnosis: expect.stringMatching(says) as unknown })
    })

    test('a worker that somebody else killed is recognised, with what it said last', async () => {
      const id = await service.submit('long')
      await service.events(id, 0, ({ line }) => line === 'one')
      const { worker } = await service.task(id)
      const container = worker?.containerId ?? ''
      if (runner === 'docker') await callEngine('POST', `/containers/${container}/kill`)
      else process.kill(-Number(container), 'SIGKILL')
      const { status, evidence } = await evidenceOf(service, id)
      expect(status).toBe('FAILED')
      expect(evidence.stdout).toEqual([
        '{"event":"connection","status":"connected"}',
        '{"event":"text_delta","delta":"a"}',
      ])
      expect(evidence.stderr).toEqual(['one'])
      if (runner === 'docker') {
        expect(evidence).toMatchObject({ cause: 'KILLED', signal: 'SIGKILL', oomKilled: false })
        expect(evidence.imageDigest).toMatch(/^sha256:/)
      }
    })

    test('the GPU readings, the settings without their secrets, and all of it after a restart', async () => {
      const id = await service.submit('on-gpu')
      const before = await evidenceOf(service, id)
      expect(before).toMatchObject({ exitCode: 5, evidence: { stderr: ['first'] } })
      expect(before.evidence.gpuReadings.length).toBeGreaterThan(0)
      expect(before.evidence.spec).toMatchObject({
        env: ['TOKEN'],
        timeouts: { stopGraceMs: expect.any(Number) as unknown },
      })
      await service.down('SIGKILL')
      await service.up()
      expect(await evidenceOf(service, id)).toEqual(before)
    })

    test('each attempt has its own', async () => {
      const { id } = await service.run('twice')
      const attempts = await attemptsOf(service, id)
      expect(attempts.map(({ evidence }) => evidence?.stderr)).toEqual([[`${id}.1`], [`${id}.2`]])
    })

    test('what was said before the service was killed is not forgotten', async () => {
      const id = await service.submit('long')
      await service.events(id, 0, ({ line }) => line === 'one')
      const { worker } = await service.task(id)
      await service.down('SIGKILL')
      await service.up()
      const container = worker?.containerId ?? ''
      if (runner === 'docker') await callEngine('POST', `/containers/${container}/kill`)
      else process.kill(-Number(container), 'SIGKILL')
      const { evidence } = await evidenceOf(service, id)
      expect(evidence).toMatchObject({
        ...{
          stderr: ['one'],
          stdout: ['{"event":"connection","status":"connected"}', '{"event":"text_delta","delta":"a"}'],
        },
      })
      if (runner === 'docker') expect(evidence.imageDigest).toMatch(/^sha256:/)
    })
  })
}

test.skipIf(noDocker)('at least twelve kinds are shown', () => {
  expect(
    new Set(Object.values({ ...EVERYWHERE, ...IN_DOCKER }).map(([, cause]) => cause)).size,
  ).toBeGreaterThanOrEqual(12)
})
