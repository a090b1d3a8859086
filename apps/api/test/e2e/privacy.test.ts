import { createHash } from 'node:crypto'
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { CONNECTED, RUNNERS, script } from './scripts.ts'
import { EVENT_FIELDS, type SeenEvent, TestService } from './service.ts'

const CANARY = 'canary-5c0e81'
const TASK = `query ($id: ID!) { task(id: $id) {
  status privacy scrubbedAt input text result labels lastSeq explanation cancelReason usage error { code message }
  contentHashes { input text result } artifacts { name } files { name sha256 }
  attempts { error { code message } evidence { cause diagnosis stderr stdout } }
  events(first: 1000) { events { ${EVENT_FIELDS} } } } }`

/** Says its input in every way that is kept. */
const TELL = `said=$(cat "$INPUT_FILE" | tr -d '{}" '); for i in 1 2 3; do echo "{\\"event\\":\\"text_delta\\",\\"delta\\":\\"$said \\"}"; done
  echo "{\\"event\\":\\"progress\\",\\"completed\\":1,\\"total\\":2,\\"message\\":\\"$said\\"}"; echo "plain $said"; echo "{broken $said"; echo "debug $said" >&2
  echo "{\\"event\\":\\"oops-$said\\",\\"x\\":\\"$said\\"}"; echo "{\\"event\\":\\"usage\\",\\"tokens\\":3}"
  echo "{\\"event\\":\\"result\\",\\"value\\":{\\"said\\":\\"$said\\"}}"; echo "$said" > "$OUTPUT_DIR/a.txt"
  echo "{\\"event\\":\\"artifact\\",\\"path\\":\\"a.txt\\",\\"name\\":\\"$said.txt\\"}"`

interface Seen {
  readonly status: string
  readonly privacy: string
  readonly scrubbedAt: string | null
  readonly input: unknown
  readonly text: string | null
  readonly contentHashes: Readonly<Record<string, string | null>> | null
  readonly files: readonly { readonly sha256: string }[]
  readonly lastSeq: number
  readonly events: { readonly events: readonly SeenEvent[] }
}

const sha256 = (text: string): string => createHash('sha256').update(text).digest('hex')

for (const { runner, skipped } of RUNNERS) {
  describe.skipIf(skipped)(`what is kept of a task's contents with the ${runner} runner`, () => {
    let service: TestService
    beforeAll(async () => {
      service = await TestService.start({
        runner,
        env: { PRIVACY_GRACE_SECONDS: '0.5', HOUSEKEEPING_SECONDS: '0.2', LOG_LEVEL: 'debug' },
        presets: {
          telling: script(`${CONNECTED}; ${TELL}; echo '{"event":"finish","status":"completed"}'`),
          failing: script(`${CONNECTED}; ${TELL}; echo "died of $said" >&2; exit 3`),
          refusing: script(
            `${CONNECTED}; ${TELL}; echo "{\\"event\\":\\"finish\\",\\"status\\":\\"failed\\",\\"error\\":{\\"code\\":\\"BAD\\",\\"message\\":\\"bad $said\\"}}"`,
          ),
          waiting: script(`${CONNECTED}; ${TELL}; while :; do sleep 0.1; done`, {
            timeouts: { stop_grace: '1s' },
          }),
        },
      })
    })
    afterAll(async () => {
      await service[Symbol.asyncDispose]()
    })

    const seen = async (id: string): Promise<Seen> => (await service.query<{ task: Seen }>(TASK, { id })).task

    const scrubbed = async (id: string): Promise<Seen> => {
      await service.ended(id)
      await expect.poll(async () => (await seen(id)).scrubbedAt, { timeout: 20_000 }).not.toBeNull()
      return seen(id)
    }

    /** The files below the data folder, the database's among them, that have the text in them. */
    const filesWith = async (text: string): Promise<readonly string[]> => {
      const entries = await readdir(service.dataDir, { recursive: true, withFileTypes: true })
      const found: string[] = []
      for (const entry of entries) {
        if (!entry.isFile()) continue
        const path = join(entry.parentPath, entry.name)
        const bytes = await readFile(path).catch(() => Buffer.alloc(0))
        if (bytes.includes(text)) found.push(path)
      }
      return found
    }

    const upload = async (): Promise<{ readonly id: string; readonly sha256: string }> => {
      const response = await fetch(new URL(`/uploads?name=${CANARY}.txt`, service.url), {
        method: 'POST',
        headers: { 'content-type': 'text/plain' },
        body: `${CANARY} as a file`,
      })
      return (await response.json()) as { readonly id: string; readonly sha256: string }
    }

    test('is all, unless it is asked for otherwise', async () => {
      const id = await service.submit('telling', { input: { prompt: 'hello' } })
      await service.ended(id)
      // A look for what is to be removed, after the time that a task of another class would have had.
      const due = Date.now() + 500
      await expect
        .poll(async () => {
          const { service: found } = await service.query<{ service: { storage: { lastRoundAt: string } } }>(
            '{ service { storage { lastRoundAt } } }',
          )
          return Date.parse(found.storage.lastRoundAt)
        })
        .toBeGreaterThan(due)
      const task = await seen(id)
      expect(task).toMatchObject({ privacy: 'FULL', scrubbedAt: null, contentHashes: null })
      expect(task.text).toBe('prompt:hello prompt:hello prompt:hello ')
    })

    test('is nothing of an ephemeral one, in no file: not when it completes, fails, is refused, or is cancelled', async () => {
      const submit = async (kind: string, files: readonly object[] = []): Promise<string> =>
        service.submit(kind, {
          input: { prompt: CANARY },
          privacy: 'EPHEMERAL',
          files,
          labels: { team: 'x' },
        })
      const { id: uploadId } = await upload()
      const ids = [await submit('telling', [{ uploadId }]), await submit('failing'), await submit('refusing')]
      const waiting = await submit('waiting')
      await service.events(waiting, 0, ({ __typename }) => __typename === 'ArtifactEvent')
      expect(await filesWith(CANARY)).not.toEqual([])
      await service.cancel(waiting, `because of ${CANARY}`)
      ids.push(waiting)
      for (const id of ids) {
        const task = await scrubbed(id)
        expect(task).toMatchObject({
          ...{ privacy: 'EPHEMERAL', input: null, text: null, result: null, contentHashes: null },
          ...{ labels: { team: 'x' }, artifacts: [], files: [] },
        })
        expect(JSON.stringify(task)).not.toContain(CANARY)
        const { events } = task.events
        expect(events.map(({ seq }) => seq)).toEqual(events.map((_event, index) => index + 1))
        expect(events).toHaveLength(task.lastSeq)
        expect(
          await service.query(`{ tasks(filter: { text: "${CANARY}" }) { edges { node { id } } } }`),
        ).toEqual({ tasks: { edges: [] } })
      }
      // The workers are removed meanwhile, with what they were given.
      await expect.poll(() => filesWith(CANARY), { timeout: 30_000 }).toEqual([])
      expect(service.output).not.toContain(CANARY)
    })

    test('is hashes of a hashed one, by which what was kept elsewhere can be proven', async () => {
      const { id: uploadId, sha256: ofFile } = await upload()
      const input = { prompt: CANARY, a: [1] }
      const id = await service.submit('telling', { input, privacy: 'HASHED', files: [{ uploadId }] })
      const task = await scrubbed(id)
      expect(JSON.stringify(task)).not.toContain(CANARY)
      const said = `prompt:${CANARY},a:[1] `.repeat(3)
      expect(task.contentHashes?.['text']).toBe(`sha256:${sha256(said)}`)
      expect(task.contentHashes?.['input']).toBe(
        `sha256:${sha256(JSON.stringify({ a: [1], prompt: CANARY }))}`,
      )
      expect(task.contentHashes?.['result']).toMatch(/^sha256:[0-9a-f]{64}$/)
      expect(task.files).toEqual([{ name: '', sha256: ofFile }])
      const artifact = task.events.events.find(({ __typename }) => __typename === 'ArtifactEvent')
      expect(artifact?.['artifact']).toMatchObject({
        name: '',
        sha256: expect.stringMatching(/^[0-9a-f]{64}$/) as string,
      })
      await expect.poll(() => filesWith(CANARY), { timeout: 30_000 }).toEqual([])
    })

    test('is not enough to repeat one whose contents are gone', async () => {
      const id = await service.submit('telling', { input: { prompt: 'x' }, privacy: 'EPHEMERAL' })
      await scrubbed(id)
      expect(
        await service.query(`mutation { retryTask(id: "${id}") { ... on RefusedProblem { code message } } }`),
      ).toEqual({
        retryTask: {
          code: 'SCRUBBED',
          message: 'The task was ephemeral: its input was removed after its end.',
        },
      })
    })

    test('is removed after a restart too, where the service was killed before', async () => {
      const id = await service.submit('telling', { input: { prompt: CANARY }, privacy: 'EPHEMERAL' })
      await service.ended(id)
      await service.down('SIGKILL')
      await service.up()
      await scrubbed(id)
      await expect.poll(() => filesWith(CANARY), { timeout: 30_000 }).toEqual([])
    })
  })
}
