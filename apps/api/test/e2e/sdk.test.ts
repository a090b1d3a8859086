import { spawnSync } from 'node:child_process'
import { realpathSync } from 'node:fs'
import { join } from 'node:path'
import { BASE_IMAGE, testEngine } from '@gpu-service/test-engine'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { RUNNERS } from './scripts.ts'
import { faultsOf, type PresetSource, type SeenEvent, TestService } from './service.ts'
import { sha256, upload } from './uploads.ts'

const SDK = realpathSync(join(import.meta.dirname, '../../../../workers/sdk'))

const noPython = spawnSync('python3', ['--version']).status !== 0

/** The smallest worker there is, as the documentation has it. */
const BARE = `import json

def emit_event(event_type: str, data: dict):
    print(json.dumps({"event": event_type, **data}), flush=True)

emit_event("connection", {"status": "connected"})
emit_event("worker", {"status": "working"})
emit_event("text_delta", {"delta": "Hello "})
emit_event("finish", {"status": "completed"})
`

function bare(): PresetSource {
  return {
    docker_image: BASE_IMAGE,
    command: ['python', '-c', BARE],
    local: ['python3', '-c', BARE],
    gpus: { count: 0 },
  }
}

/** The worker that does what its input asks for, with the SDK for Python. */
function sdk(more: PresetSource = {}): PresetSource {
  const program = 'behaviours/workers/behaviours.py'
  return {
    docker_image: BASE_IMAGE,
    command: ['python', `/sdk/${program}`],
    local: ['python3', join(SDK, program)],
    volumes: [{ source: SDK, target: '/sdk' }],
    gpus: { count: 0 },
    ...more,
  }
}

const PRESETS = {
  bare: bare(),
  'one-off': sdk(),
  session: sdk({ mode: 'session', env_vars: { SLOTS: '2' }, session: { max_concurrency: 2 } }),
}

describe.each(RUNNERS)('workers in Python in the service, with the $runner runner', ({ runner, skipped }) => {
  describe.skipIf(runner === 'process' ? noPython : skipped)('and an engine where it needs one', () => {
    let service: TestService
    beforeAll(async () => {
      await testEngine()?.ensureImage(BASE_IMAGE)
      service = await TestService.start({ runner, presets: PRESETS, env: { VOLUME_ROOTS: SDK } })
    }, 300_000)
    afterAll(() => service[Symbol.asyncDispose]())

    const kinds = (events: readonly SeenEvent[]): string[] => events.map(({ __typename }) => __typename)

    test('the smallest one there is completes its task', async () => {
      const id = await service.submit('bare')
      const events = await service.events(id)
      expect(faultsOf(events)).toEqual([])
      expect(kinds(events).filter((kind) => kind !== 'TaskStatusEvent')).toEqual([
        'ConnectionEvent',
        'WorkerEvent',
        'TextDeltaEvent',
        'FinishEvent',
      ])
      expect(await service.task(id)).toMatchObject({ status: 'COMPLETED', text: 'Hello ', exitCode: 0 })
    })

    test('one made with the SDK says everything, and its files are artifacts', async () => {
      const id = await service.submit('one-off', { input: { do: 'everything' } })
      const events = await service.events(id)
      expect(faultsOf(events)).toEqual([])
      expect(kinds(events)).not.toContain('ProtocolFaultEvent')
      expect(kinds(events)).toEqual(
        expect.arrayContaining(['ProgressEvent', 'UsageEvent', 'LogEvent', 'CustomEvent', 'ArtifactEvent']),
      )
      expect(kinds(events).filter((kind) => kind === 'ArtifactEvent')).toHaveLength(2)
      expect(await service.task(id)).toMatchObject({ status: 'COMPLETED', exitCode: 0 })
    })

    test.each(['one-off', 'session'])('one made with the SDK has the files of its task: %s', async (kind) => {
      const { id: uploadId } = await upload(service, 'heard', { name: 'a clip.txt', type: 'text/plain' })
      const { id } = await service.run(kind, { input: { do: 'files' }, files: [{ uploadId }] })
      const [result] = (await service.events(id)).filter(({ __typename }) => __typename === 'ResultEvent')
      expect(result?.['value']).toMatchObject([
        {
          name: 'a clip.txt',
          mediaType: 'text/plain',
          bytes: 5,
          sha256: sha256('heard'),
          content: 'heard',
        },
      ])
    })

    test('the same one as a session does several tasks at once, and stays warm over a cancel', async () => {
      const endless = await service.submit('session', { input: { do: 'endless' } })
      await service.events(endless, 0, ({ __typename }) => __typename === 'TextDeltaEvent')
      const beside = await service.run('session', { input: { do: 'stream', pieces: ['so ', 'warm'] } })
      expect(beside).toMatchObject({ status: 'COMPLETED', text: 'so warm' })
      await service.cancel(endless)
      expect(await service.ended(endless)).toMatchObject({ status: 'CANCELLED' })
      const after = await service.run('session', { input: { do: 'refuse' } })
      expect(after).toMatchObject({
        status: 'FAILED',
        error: { code: 'WORKER_FAILED', message: 'INVALID_INPUT: the prompt is missing' },
        attempts: [{ warm: true, workerId: beside.attempts[0]?.workerId }],
      })
      expect(faultsOf(await service.events(endless))).toEqual([])
    })
  })
})
