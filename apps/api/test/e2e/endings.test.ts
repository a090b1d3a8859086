import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { RUNNERS, CONNECTED, FINISHED, say, script } from './scripts.ts'
import { faultsOf, TestService } from './service.ts'

const MIB = 1024 * 1024

for (const { runner, skipped } of RUNNERS) {
  describe.skipIf(skipped)(`with the ${runner} runner`, () => {
    let service: TestService
    beforeAll(async () => {
      service = await TestService.start({
        runner,
        presets: {
          complete: script(`${CONNECTED}; ${say('Hello ')}; ${say('World')}; ${FINISHED}`),
          'no-finish': script(CONNECTED),
          'exit-7': script(`${CONNECTED}; echo 'Traceback: no model' >&2; exit 7`),
          'finish-then-3': script(`${CONNECTED}; ${FINISHED}; exit 3`),
          failed: script(`echo '{"event":"finish","status":"failed","error":"no such model"}'`),
          'unknown-finish': script(`echo '{"event":"finish","status":"splendid"}'`),
          segfault: script(`${CONNECTED}; kill -SEGV $$; sleep 5`),
          hang: script(`${CONNECTED}; ${FINISHED}; sleep 600`, {
            timeouts: { finish_grace: '1s', stop_grace: '1s' },
          }),
          slow: script(`${CONNECTED}; sleep 600`, { timeouts: { run: '1s', stop_grace: '1s' } }),
          stubborn: script(`trap '' TERM; ${CONNECTED}; while :; do sleep 1; done`, {
            timeouts: { run: '1s', stop_grace: '1s' },
          }),
          'no-command': script('', { command: ['/no/such/program'], local: ['/no/such/program'] }),
          garbage: script(
            [
              `echo 'Loading weights: 50%'`,
              `echo '{"event":"text_delta"}'`,
              `echo '{"event":"text_delta","delta":"cut'`,
              `echo '[1,2]'`,
              `echo '{"no":"event"}'`,
              `echo '{"event":"sparkle","x":[1,{"y":2}]}'`,
              `printf '{"event":"text_delta","delta":"\\377\\376"}\\n'`,
              `printf '{"event":"text_delta","delta":"a\\\\u0000b"}\\n'`,
              `printf '\\n   \\n'`,
              `printf '{"event":"finish","status":"completed"}'`,
            ].join('\n'),
          ),
          'long-line': script(
            `printf '{"event":"text","content":"'; dd if=/dev/zero bs=1048576 count=10 2>/dev/null | tr '\\0' a; printf '"}\\n'; ${say('after')}; ${FINISHED}`,
          ),
          flood: script(
            `i=0; while [ $i -lt 20000 ]; do echo "{\\"event\\":\\"text_delta\\",\\"delta\\":\\"$i \\"}"; echo "err $i" >&2; i=$((i+1)); done; ${FINISHED}`,
          ),
          chatty: script(`${CONNECTED}; yes 'all work and no play'`, {
            ...{ output: { size: '1MiB' }, timeouts: { stop_grace: '1s' } },
          }),
          counting: script(`${CONNECTED}; while :; do ${say('x')}; done`, {
            ...{ output: { events: 50 }, timeouts: { stop_grace: '1s' } },
          }),
          littering: script(
            `${CONNECTED}; i=0; while [ $i -lt 5 ]; do echo $i > "$OUTPUT_DIR/$i"; echo "{\\"event\\":\\"artifact\\",\\"path\\":\\"$i\\"}"; i=$((i+1)); done; sleep 60`,
            { output: { artifacts: 3 }, timeouts: { stop_grace: '1s' } },
          ),
          heavy: script(
            `${CONNECTED}; for i in 1 2 3; do dd if=/dev/zero of="$OUTPUT_DIR/$i" bs=1048576 count=1 2>/dev/null; echo "{\\"event\\":\\"artifact\\",\\"path\\":\\"$i\\"}"; done; sleep 60`,
            { output: { artifacts_size: '2MiB' }, timeouts: { stop_grace: '1s' } },
          ),
          everything: script(
            [
              CONNECTED,
              `echo '{"event":"worker","status":"loading","message":"Loading","progress":0.5}'`,
              `echo '{"event":"progress","completed":1,"total":4,"unit":"steps"}'`,
              `echo '{"event":"usage","prompt_tokens":3}'`,
              `echo '{"event":"usage","completion_tokens":5}'`,
              `echo '{"event":"log","level":"info","message":"hello"}'`,
              `printf 'picture' > "$OUTPUT_DIR/a.png"`,
              `echo '{"event":"artifact","path":"a.png","media_type":"image/png"}'`,
              `echo '{"event":"artifact","path":"/etc/passwd"}'`,
              `echo '{"event":"result","value":{"score":1}}'`,
              `echo '{"event":"text","content":"done"}'`,
              FINISHED,
              say('too late'),
            ].join('\n'),
          ),
          echo: script(
            `read -r line; printf '%s' "$line" > "$OUTPUT_DIR/run.json"; echo '{"event":"artifact","path":"run.json"}'; ${FINISHED}`,
          ),
        },
      })
    })
    afterAll(() => service[Symbol.asyncDispose]())

    test.each([
      ['complete', 'COMPLETED', null, 0],
      ['no-finish', 'FAILED', 'NO_FINISH', 0],
      ['exit-7', 'FAILED', 'WORKER_FAILED', 7],
      ['finish-then-3', 'COMPLETED', null, 3],
      ['failed', 'FAILED', 'WORKER_FAILED', 0],
      ['unknown-finish', 'FAILED', 'NO_FINISH', 0],
      ['segfault', 'FAILED', 'WORKER_FAILED', 139],
      ['slow', 'TIMED_OUT', 'RUN_TIMEOUT', 143],
      ['stubborn', 'TIMED_OUT', 'RUN_TIMEOUT', 137],
      ['no-command', 'FAILED', 'COMMAND_NOT_FOUND', null],
    ])(
      'a worker that does "%s" ends %s with error %s and exit code %s',
      async (kind, status, code, exitCode) => {
        const id = await service.submit(kind)
        const events = await service.events(id)
        expect(faultsOf(events)).toEqual([])
        const task = await service.task(id)
        expect({ status: task.status, code: task.error?.code ?? null, exitCode: task.exitCode }).toEqual({
          status,
          code,
          exitCode,
        })
        expect(task.lastSeq).toBe(events.length)
      },
    )

    test('quotes the last words of a worker that failed without saying why', async () => {
      const task = await service.ended(await service.submit('exit-7'))
      expect(task.error?.message).toContain('Traceback: no model')
      expect(task.explanation).toContain('code 7')
    })

    test('stops a worker that hangs after its finish, completes its task and keeps a warning', async () => {
      const id = await service.submit('hang')
      const events = await service.events(id)
      expect(events.at(-1)).toMatchObject({
        taskStatus: 'COMPLETED',
        reason: expect.stringContaining('did not exit') as string,
      })
    })

    test.each([
      ['chatty', 'said more than 1 MB (output.size)', 2 * MIB],
      ['counting', 'said more than 50 events (output.events)', 10_000],
      ['littering', 'left more than 3 artifacts (output.artifacts)', 10_000],
      ['heavy', 'left artifacts of more than 2 MB (output.artifacts_size)', 10_000],
    ])(
      'stops a worker that is %s: it %s; what it had said is kept, what comes then is not',
      async (kind, what, mostCharacters) => {
        const id = await service.submit(kind)
        const events = await service.events(id)
        const task = await service.task(id)
        expect(task).toMatchObject({
          status: 'FAILED',
          error: { code: 'OUTPUT_LIMIT', message: `The task was stopped because it ${what}.` },
        })
        const lines = events.map(({ line, delta }) =>
          typeof line === 'string' ? line : typeof delta === 'string' ? delta : '',
        )
        expect(lines.filter((line) => line === `[cut: it ${what}; the rest is not kept]`)).toHaveLength(1)
        expect(lines.join('').length).toBeLessThan(mostCharacters)
        expect(events.map(({ seq }) => seq)).toEqual(events.map((_event, index) => index + 1))
      },
    )

    test('keeps garbage as logs and faults, and goes on', async () => {
      const id = await service.submit('garbage')
      const events = await service.events(id)
      expect(faultsOf(events)).toEqual([])
      const said = events.flatMap((event) => {
        switch (event.__typename) {
          case 'LogEvent':
            return [`log ${String(event['line'])}`]
          case 'ProtocolFaultEvent':
            return [`fault ${String(event['kind'])}`]
          case 'CustomEvent':
            return [`custom ${String(event['name'])} ${JSON.stringify(event['payload'])}`]
          case 'TextDeltaEvent':
            return [`delta ${JSON.stringify(event['delta'])}`]
          default:
            return []
        }
      })
      expect(said.filter((line) => line !== 'fault INVALID_UTF8')).toEqual([
        'log Loading weights: 50%',
        'fault INVALID_FIELDS',
        'fault INVALID_JSON',
        'log [1,2]',
        'log {"no":"event"}',
        'custom sparkle {"event":"sparkle","x":[1,{"y":2}]}',
        'delta "��"',
        'delta "a�b"',
      ])
      expect((await service.task(id)).status).toBe('COMPLETED')
    })

    test('skips a line of 10 MB with a fault and reads what follows', async () => {
      const id = await service.submit('long-line')
      const events = await service.events(id)
      expect(events.filter((event) => event.__typename === 'ProtocolFaultEvent')).toMatchObject([
        { kind: 'LINE_TOO_LONG' },
      ])
      expect(await service.task(id)).toMatchObject({ status: 'COMPLETED', text: 'after' })
    })

    test('keeps both output streams whole and each in its order when both flood', async () => {
      const id = await service.submit('flood')
      const events = await service.events(id)
      expect(faultsOf(events)).toEqual([])
      const out = events
        .filter((event) => event.__typename === 'TextDeltaEvent')
        .map((event) => event['delta'])
      const err = events.filter((event) => event.__typename === 'LogEvent').map((event) => event['line'])
      expect(out).toEqual(Array.from({ length: 20_000 }, (_, i) => `${i} `))
      expect(err).toEqual(Array.from({ length: 20_000 }, (_, i) => `err ${i}`))
    })

    test('serves all that a worker can say, and faults what comes after its finish', async () => {
      const id = await service.submit('everything')
      const events = await service.events(id)
      expect(faultsOf(events)).toEqual([])
      expect(
        events.filter((event) => event.__typename === 'ProtocolFaultEvent').map((event) => event['kind']),
      ).toEqual(['INVALID_ARTIFACT', 'AFTER_FINISH'])
      const { task } = await service.query<{ task: Record<string, unknown> }>(
        'query ($id: ID!) { task(id: $id) { status text result usage artifacts { name mediaType bytes sha256 url } } }',
        { id },
      )
      expect(task).toMatchObject({
        status: 'COMPLETED',
        text: 'done',
        result: { score: 1 },
        usage: { prompt_tokens: 3, completion_tokens: 5 },
        artifacts: [{ name: 'a.png', mediaType: 'image/png', bytes: '7' }],
      })
      const [{ url }] = task['artifacts'] as [{ url: string }]
      const response = await fetch(new URL(url, service.url))
      expect(await response.text()).toBe('picture')
      expect(response.headers.get('content-disposition')).toContain('attachment')
    })

    test('hands a large input over on stdin, in one line, with the end of input behind it', async () => {
      const text = 'x'.repeat(200_000)
      const id = await service.submit('echo', { input: { text } })
      const task = await service.ended(id)
      expect(task.status).toBe('COMPLETED')
      const { task: full } = await service.query<{ task: { artifacts: [{ url: string }] } }>(
        'query ($id: ID!) { task(id: $id) { artifacts { url } } }',
        { id },
      )
      const run: unknown = await (await fetch(new URL(full.artifacts[0].url, service.url))).json()
      expect(run).toMatchObject({ command: 'run', task_id: `${id}.1`, attempt: 1, input: { text } })
    })

    test('takes no more memory for a long line than for its limit', async () => {
      const { readFile } = await import('node:fs/promises')
      await service.ended(await service.submit('long-line'))
      const status = await readFile(`/proc/${service.pid}/status`, 'utf8')
      const residentKb = Number(/VmRSS:\s+(\d+)/.exec(status)?.[1])
      expect(residentKb * 1024).toBeLessThan(600 * MIB)
    })
  })
}
