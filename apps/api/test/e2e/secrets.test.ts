import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { CONNECTED, FINISHED, RUNNERS, script, stderrOf } from './scripts.ts'
import { EVENT_FIELDS, type SeenEvent, TestService } from './service.ts'
import { callEngine } from './sessions.ts'

const FROM_FILE = 'canary-file-7d1f0c'
const FROM_VARIABLE = 'canary-variable-b44e'
const CANARY = /canary-(file|variable)/

/** Reads its secrets and gives each away in every way that is kept. */
const READ = 'f=$(cat "$SECRETS_DIR/token"); v=$(cat "$SECRETS_DIR/api.key")'
const TELL = `echo "{\\"event\\":\\"text_delta\\",\\"delta\\":\\"\${#f} \${#v} $f $v\\"\${named}}"; echo "plain $f$v"; echo "debug $v" >&2
  echo "{\\"event\\":\\"result\\",\\"value\\":{\\"$f\\":[\\"$v\\"]}\${named}}"; echo "{\\"event\\":\\"oops\\",\\"x\\":\\"$f\${named}"`
/** The lengths that show that it had them, and what is kept of the values. */
const TOLD = `${FROM_FILE.length} ${FROM_VARIABLE.length} [secret token] [secret api.key]`
const FAIL = `echo "{\\"event\\":\\"finish\\",\\"status\\":\\"failed\\",\\"error\\":{\\"code\\":\\"$f\\",\\"message\\":\\"bad token $f\\"}}"`
const SESSION = `${READ}; echo "{\\"event\\":\\"worker\\",\\"status\\":\\"ready\\",\\"message\\":\\"$f\\"}"; echo "idle $v" >&2
  while read -r line; do case "$line" in
    *'"command":"run"'*) id=\${line#*\\"task_id\\":\\"}; id=\${id%%\\"*}; named=",\\"task_id\\":\\"$id\\""; ${TELL}
      case "$line" in
        *hang*) ;;
        *fail*) echo "{\\"event\\":\\"finish\\",\\"status\\":\\"failed\\",\\"error\\":\\"$v\\"$named}";;
        *) echo "{\\"event\\":\\"finish\\",\\"status\\":\\"completed\\"$named}";;
      esac;;
    *'"command":"cancel"'*) echo "{\\"event\\":\\"finish\\",\\"status\\":\\"cancelled\\"$named}";;
    *'"command":"shutdown"'*) exit 0;;
  esac; done`

const TASK = `query ($id: ID!) { task(id: $id) {
  input labels text result usage explanation cancelReason error { code message } artifacts { name }
  attempts { error { code message } evidence { cause diagnosis stderr stdout spec } }
  worker { explanation endReason log { text } }
  events(first: 1000) { events { ${EVENT_FIELDS} } } } }`
const PRESETS = `{ presets { id command description relaxations inputSchema } workers { explanation log { text } } service { version } }`

for (const { runner, skipped } of RUNNERS) {
  describe.skipIf(skipped)(`a secret with the ${runner} runner`, () => {
    let folder: string
    let service: TestService
    /** What services that are gone have printed, and what was asked of the API and the engine. */
    let seen = ''

    beforeAll(async () => {
      folder = await mkdtemp(join(tmpdir(), 'gpu-service-secrets-'))
      await writeFile(join(folder, 'token'), `${FROM_FILE}\n`, { mode: 0o600 })
      const secrets = { token: join(folder, 'token'), 'api.key': 'env:WORKER_SECRET_API_KEY' }
      const more = { secrets, timeouts: { stop_grace: '1s' } }
      service = await TestService.start({
        runner,
        presets: {
          fine: script(`${CONNECTED}; ${READ}; ${TELL}; ${FINISHED}`, more),
          exits: script(`${READ}; ${TELL}; echo "died of $f" >&2; exit 3`, more),
          fails: script(`${READ}; ${FAIL}`, more),
          hangs: script(`${READ}; while :; do ${TELL}; sleep 0.1; done`, more),
          warm: script(SESSION, { ...more, mode: 'session' }),
          none: script(`echo "[\${SECRETS_DIR-none}]" >&2; ${FINISHED}`),
          missing: script(FINISHED, { secrets: { gone: join(folder, 'not-there') } }),
          unset: script(FINISHED, { secrets: { key: 'env:WORKER_SECRET_UNSET' } }),
        },
        env: {
          SECRET_ROOTS: folder,
          WORKER_SECRET_API_KEY: FROM_VARIABLE,
          LOG_LEVEL: 'trace',
          SHUTDOWN: 'stop',
        },
      })
    })
    afterAll(async () => {
      await service[Symbol.asyncDispose]()
      await rm(folder, { recursive: true })
    })

    /** Remembers all that the API says of a task. */
    async function look(id: string): Promise<void> {
      seen += JSON.stringify(await service.query(TASK, { id }))
    }

    async function run(kind: string, input?: unknown): Promise<readonly SeenEvent[]> {
      const id = await service.submit(kind, input === undefined ? {} : { input })
      const events = await service.events(id)
      await look(id)
      return events
    }

    /** Remembers what the engine says of a running container, or the kernel of a process. */
    async function inspect(id: string): Promise<void> {
      await service.events(id, 0, ({ __typename }) => __typename === 'TextDeltaEvent')
      const container = await vi.waitFor(async () => {
        const { worker } = await service.task(id)
        if (worker?.containerId == null) throw new Error('it has no container yet')
        return worker.containerId
      })
      if (runner === 'docker')
        seen += JSON.stringify(await callEngine('GET', `/containers/${container}/json`))
      else
        for (const file of ['environ', 'cmdline'])
          seen += await readFile(`/proc/${container}/${file}`, 'utf8')
    }

    const finalOf = (events: readonly SeenEvent[]) => events.at(-1)?.taskStatus
    const textOf = (events: readonly SeenEvent[]) =>
      events.find(({ __typename }) => __typename === 'TextDeltaEvent')?.['delta']

    test('reaches a one-off worker, and what it prints of it is hidden', async () => {
      const events = await run('fine')
      expect([finalOf(events), textOf(events)]).toEqual(['COMPLETED', TOLD])
      expect(stderrOf(events)).toEqual(['debug [secret api.key]'])
      expect(events).toContainEqual(
        expect.objectContaining({
          __typename: 'ResultEvent',
          value: { '[secret token]': ['[secret api.key]'] },
        }),
      )
      expect(events).toContainEqual(
        expect.objectContaining({
          __typename: 'ProtocolFaultEvent',
          line: expect.stringContaining('[secret token]') as unknown,
        }),
      )
    })

    test('is hidden in what is kept of failures', async () => {
      const exits = await run('exits')
      expect([finalOf(exits), textOf(exits)]).toEqual(['FAILED', TOLD])
      expect(seen).toContain('died of [secret token]')
      const fails = await run('fails')
      expect(fails.find(({ __typename }) => __typename === 'FinishEvent')).toMatchObject({
        error: { code: '[secret token]', message: 'bad token [secret token]' },
      })
    })

    test('reaches a session worker, and is hidden in success, failure and cancel, and outside of tasks', async () => {
      const fine = await run('warm')
      expect([finalOf(fine), textOf(fine)]).toEqual(['COMPLETED', TOLD])
      expect(finalOf(await run('warm', { mode: 'fail' }))).toBe('FAILED')
      const id = await service.submit('warm', { input: { mode: 'hang' } })
      await inspect(id)
      await service.cancel(id)
      expect(finalOf(await service.events(id))).toBe('CANCELLED')
      await look(id)
    })

    test('is hidden also by the next service, which finds the worker running', async () => {
      const id = await service.submit('hangs')
      await inspect(id)
      const { lastSeq } = await service.task(id)
      seen += service.output
      await service.down('SIGKILL')
      await service.up()
      const after = await service.events(id, lastSeq, ({ __typename }) => __typename === 'TextDeltaEvent')
      expect(textOf(after)).toBe(TOLD)
      await service.cancel(id)
      expect(finalOf(await service.events(id))).toBe('CANCELLED')
      await look(id)
    })

    test('is not told to a worker whose preset names none', async () => {
      expect(stderrOf(await run('none'))).toEqual(['[none]'])
    })

    test.each([
      ['missing', 'gone', /not-there: there is no file of that name\./],
      ['unset', 'key', /env:WORKER_SECRET_UNSET: the variable is not set\./],
    ])('that cannot be read (%s) fails the task, which names it and its source', async (kind, name, says) => {
      const task = await service.run(kind)
      expect(task).toMatchObject({ status: 'FAILED', error: { code: 'START_FAILED' } })
      expect(task.error?.message).toContain(
        `The secret ${name} of the preset test/${kind} could not be read from `,
      )
      expect(task.error?.message).toMatch(says)
      expect(task.attempts).toHaveLength(1)
    })

    test('is found nowhere when the workers are gone', async () => {
      seen += JSON.stringify(await service.query(PRESETS))
      seen += service.output
      expect(seen).not.toMatch(CANARY)
      expect(seen).toContain('[secret token]')
      for (const { id } of await service.workers())
        await service.query(`mutation ($id: ID!) { endSession(id: $id) { __typename } }`, { id })
      await vi.waitFor(
        async () => {
          expect(await readdir(join(service.dataDir, 'workers'))).toEqual([])
        },
        { timeout: 20_000 },
      )
      const whileItRuns = await filesBelow(service.dataDir)
      expect(whileItRuns.map(({ path }) => path)).toContain(join(service.dataDir, 'gpu-service.db-wal'))
      await service.down()
      for (const { path, bytes } of [...whileItRuns, ...(await filesBelow(service.dataDir))])
        expect([path, CANARY.exec(bytes.toString('latin1'))]).toEqual([path, null])
      await service.up()
    })
  })
}

async function filesBelow(folder: string): Promise<{ path: string; bytes: Buffer }[]> {
  const entries = await readdir(folder, { withFileTypes: true, recursive: true })
  return Promise.all(
    entries
      .filter((entry) => entry.isFile())
      .map(async (entry) => {
        const path = join(entry.parentPath, entry.name)
        return { path, bytes: await readFile(path) }
      }),
  )
}
