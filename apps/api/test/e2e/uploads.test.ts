import { readdir, readFile, stat } from 'node:fs/promises'
import { once } from 'node:events'
import { request } from 'node:http'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { CONNECTED, FINISHED, RUNNERS, script } from './scripts.ts'
import { TestService } from './service.ts'
import { type Body, HASHING, HASHING_SESSION, send, sha256, upload } from './uploads.ts'

const CLIP = new Uint8Array(300_000).map((_, index) => index % 251)
const NOTE = 'Grüße\n'

interface SeenFile {
  readonly name: string
  readonly mediaType: string
  readonly bytes: string
  readonly sha256: string
  readonly url: string
}

async function filesOf(service: TestService, id: string): Promise<readonly SeenFile[]> {
  const { task } = await service.query<{ task: { files: readonly SeenFile[] } }>(
    'query ($id: ID!) { task(id: $id) { files { uploadId name mediaType bytes sha256 url } } }',
    { id },
  )
  return task.files
}

/** The files in the service's folder of artifacts and uploads. */
const kept = (service: TestService): Promise<string[]> => readdir(join(service.dataDir, 'artifacts'))

const artifactBytes = async (service: TestService): Promise<string> =>
  (
    await service.query<{ service: { storage: { artifactBytes: string } } }>(
      '{ service { storage { artifactBytes } } }',
    )
  ).service.storage.artifactBytes

interface Problem {
  readonly __typename: string
  readonly message?: string
  readonly issues?: readonly { readonly path: string; readonly message: string }[]
}

async function refusal(
  service: TestService,
  field: 'submitTask' | 'dryRun',
  input: object,
): Promise<Problem> {
  const kind = field === 'dryRun' ? 'query' : 'mutation'
  const answer = await service.query<Readonly<Record<string, Problem>>>(
    `${kind} ($input: SubmitTaskInput!) { ${field}(input: $input) { __typename ... on InvalidInputProblem { message issues { path message } } } }`,
    { input },
  )
  return answer[field] ?? { __typename: 'nothing' }
}

/** Begins an upload whose end does not come; resolves when the service has begun to write it down. */
async function begin(service: TestService): Promise<{ cut: () => void }> {
  const url = new URL('/uploads?name=cut.bin', service.url)
  const headers = { 'content-type': 'application/octet-stream', 'content-length': '310000' }
  const call = request(url, { method: 'POST', headers })
  call.on('error', () => undefined)
  call.write(CLIP)
  await vi.waitFor(async () => {
    const [partial] = (await kept(service)).filter((name) => name.endsWith('.partial'))
    expect(partial).toBeDefined()
  })
  return { cut: () => call.destroy() }
}

describe.each(RUNNERS)('files for tasks of workers by $runner', ({ runner, skipped }) => {
  describe.skipIf(skipped)('are', () => {
    let service: TestService
    beforeAll(async () => {
      service = await TestService.start({
        runner,
        presets: {
          hashing: script(`${CONNECTED}; ${HASHING}; ${FINISHED}`),
          changing: script(
            `${CONNECTED}; cd "$INPUT_DIR"; for f in *; do chmod u+w "$f"; echo x >> "$f"; rm "$f"; done 2> /dev/null; touch new 2> /dev/null; ${HASHING}; ${FINISHED}`,
          ),
          warm: script(HASHING_SESSION, { mode: 'session' }),
        },
      })
    })
    afterAll(() => service[Symbol.asyncDispose]())

    test('found by a one-off worker as they were sent, under the names of the task', async () => {
      const [clip, note] = [
        await upload(service, CLIP, { name: 'a clip.wav', type: 'audio/wav' }),
        await upload(service, NOTE, { name: 'note.txt', type: 'Text/Plain; charset=utf-8' }),
      ]
      expect(clip).toMatchObject({
        name: 'a clip.wav',
        mediaType: 'audio/wav',
        bytes: CLIP.length,
        sha256: sha256(CLIP),
      })
      expect(note).toMatchObject({ mediaType: 'text/plain', sha256: sha256(NOTE) })
      const files = [{ uploadId: clip.id }, { uploadId: note.id, name: 'other name.md' }]
      const task = await service.run('hashing', { files })
      expect(task).toMatchObject({
        status: 'COMPLETED',
        text: `${sha256(CLIP)} a clip.wav;${sha256(NOTE)} other name.md;`,
      })
      const [first, second] = await filesOf(service, task.id)
      expect(first).toMatchObject({
        name: 'a clip.wav',
        mediaType: 'audio/wav',
        bytes: '300000',
        sha256: sha256(CLIP),
      })
      expect(second).toMatchObject({ name: 'other name.md' })

      const whole = await fetch(new URL(second?.url ?? '', service.url))
      expect(await whole.text()).toBe(NOTE)
      expect(Object.fromEntries(whole.headers)).toMatchObject({
        'content-type': 'text/plain',
        'content-disposition': `attachment; filename="other name.md"; filename*=UTF-8''other%20name.md`,
        'content-security-policy': "sandbox; default-src 'none'",
        'x-content-type-options': 'nosniff',
      })
      const part = await fetch(new URL(first?.url ?? '', service.url), {
        headers: { range: 'bytes=250-253' },
      })
      expect(part.status).toBe(206)
      expect([...new Uint8Array(await part.arrayBuffer())]).toEqual([250, 0, 1, 2])
      for (const path of [`/tasks/${task.id}/files/2`, `/tasks/${task.id}/files/-1`, '/tasks/x/files/0'])
        expect((await fetch(new URL(path, service.url))).status).toBe(404)
    })

    test('had again by a task that repeats another one, without being there twice', async () => {
      const { id } = await upload(service, CLIP)
      const task = await service.run('hashing', {
        files: [
          { uploadId: id, name: 'a' },
          { uploadId: id, name: 'b' },
        ],
      })
      expect(task.text).toBe(`${sha256(CLIP)} a;${sha256(CLIP)} b;`)
      const { retryTask } = await service.query<{ retryTask: { task: { id: string } } }>(
        'mutation ($id: ID!) { retryTask(id: $id) { ... on SubmitTaskSuccess { task { id } } } }',
        { id: task.id },
      )
      expect(await service.ended(retryTask.task.id)).toMatchObject({ status: 'COMPLETED', text: task.text })
      expect((await kept(service)).filter((name) => name.startsWith(id))).toEqual([id])
    })

    test('found by a session worker for each of its tasks', async () => {
      const ids = await Promise.all(['first', 'second'].map((text) => upload(service, text, { name: 'f' })))
      const texts = []
      for (const { id } of ids) texts.push((await service.run('warm', { files: [{ uploadId: id }] })).text)
      expect(texts).toEqual([`${sha256('first')} f;`, `${sha256('second')} f;`])
      expect((await service.run('warm')).status).toBe('COMPLETED')
      expect(await service.workers('warm')).toHaveLength(1)
    })

    // A plain process has the rights of the service.
    if (runner === 'docker')
      test('changed by no worker, whatever it tries', async () => {
        const { id } = await upload(service, CLIP)
        const task = await service.run('changing', { files: [{ uploadId: id, name: 'clip' }] })
        expect(task.text).toBe(`${sha256(CLIP)} clip;`)
        expect(sha256(await readFile(join(service.dataDir, 'artifacts', id)))).toBe(sha256(CLIP))
        expect((await stat(join(service.dataDir, 'artifacts', id))).mode & 0o777).toBe(0o444)
      })
  })
})

describe('a service that takes files', () => {
  let service: TestService
  beforeAll(async () => {
    service = await TestService.start({
      runner: 'process',
      env: { UPLOAD_MAX_GB: '0.001', UPLOADS_UNUSED_MAX_GB: '0.002', HOUSEKEEPING_SECONDS: '0.3' },
      presets: { hashing: script(`${CONNECTED}; ${HASHING}; ${FINISHED}`) },
    })
  })
  afterAll(() => service[Symbol.asyncDispose]())

  const digest = (text: string): string => `sha-256=:${Buffer.from(sha256(text), 'hex').toString('base64')}:`

  const LARGE = new Uint8Array(1_100_000)

  test.each<[string, number, string, Body, Parameters<typeof send>[2]]>([
    ['no name', 400, 'BAD_REQUEST', 'x', { name: '' }],
    ['a path', 400, 'BAD_REQUEST', 'x', { name: '../x' }],
    ['a name that shows another one', 400, 'BAD_REQUEST', 'x', { name: 'x\u202egpj.exe' }],
    ['a name that is too long', 400, 'BAD_REQUEST', 'x', { name: 'ü'.repeat(128) }],
    ['a digest in another form', 400, 'BAD_REQUEST', 'x', { headers: { 'content-digest': 'sha-256=abc' } }],
    [
      'the digest of something else',
      400,
      'DIGEST_MISMATCH',
      'x',
      { headers: { 'content-digest': digest('y') } },
    ],
    ['too many bytes', 413, 'UPLOAD_TOO_LARGE', LARGE, {}],
    ['too many bytes that it does not tell of', 413, 'UPLOAD_TOO_LARGE', new Blob([LARGE]).stream(), {}],
    ['a program', 415, 'UNSUPPORTED_TYPE', 'x', { type: 'application/x-msdownload' }],
    ['what a form sends', 415, 'UNSUPPORTED_TYPE', 'x', { type: 'application/x-www-form-urlencoded' }],
    ['a packed body', 415, 'UNSUPPORTED_TYPE', 'x', { headers: { 'content-encoding': 'gzip' } }],
    [
      'a page of another origin',
      403,
      'FORBIDDEN',
      'x',
      { type: 'text/plain', headers: { origin: 'https://evil.example' } },
    ],
  ])('refuses %s', async (_what, status, code, body, options) => {
    const answer = await send(service, body, options)
    expect({ status: answer.status, code: answer.code }).toEqual({ status, code })
    expect(answer.message).not.toBe('')
    expect(await kept(service)).toEqual([])
  })

  test('checks a digest that is announced', async () => {
    const headers = { 'content-digest': `sha-512=:AAAA:, ${digest('x')}` }
    expect(await send(service, 'x', { headers })).toMatchObject({ status: 201 })
  })

  test('keeps no more of an owner that no task has than it may', async () => {
    const file = new Uint8Array(900_000)
    const one = await upload(service, file)
    await upload(service, file)
    for (const body of [file, new Blob([file]).stream()])
      expect(await send(service, body)).toMatchObject({ status: 507, code: 'NO_ROOM' })
    const { id } = await service.run('hashing', { files: [{ uploadId: one.id }] })
    // One that a task has counts no more.
    await upload(service, file)
    const before = Number(await artifactBytes(service))
    await service.query('mutation ($id: ID!) { deleteTask(id: $id) { __typename } }', { id })
    expect(Number(await artifactBytes(service))).toBe(before - file.length)
    expect(await kept(service)).not.toContain(one.id)
  })

  test('tells what is wrong with the files of a submission, and of one that is only tried', async () => {
    const { id } = await upload(service, 'x', { name: 'f' })
    const presetId = 'test/hashing'
    const unknown = '01900000-0000-7000-8000-000000000000'
    for (const field of ['submitTask', 'dryRun'] as const) {
      const issuesOf = async (files: readonly object[]) =>
        (await refusal(service, field, { presetId, files })).issues
      expect(await issuesOf([{ uploadId: unknown }, { uploadId: id }])).toEqual([
        { path: 'files.0.uploadId', message: `is no upload of yours: "${unknown}"` },
      ])
      expect(await issuesOf([{ uploadId: id }, { uploadId: id, name: 'f' }])).toMatchObject([
        { path: 'files.1.name' },
      ])
      expect(await issuesOf([{ uploadId: id, name: '../f' }])).toMatchObject([{ path: 'files.0.name' }])
      expect(await issuesOf(Array.from({ length: 33 }, () => ({ uploadId: id })))).toMatchObject([
        { path: 'files' },
      ])
    }
    expect(await refusal(service, 'dryRun', { presetId, files: [{ uploadId: id }] })).toEqual({
      __typename: 'DryRunSuccess',
    })
  })

  test('takes the same submission once, and tells it from one with another file', async () => {
    const [one, other] = [
      await upload(service, '1', { name: 'f' }),
      await upload(service, '2', { name: 'f' }),
    ]
    const input = { idempotencyKey: 'with a file', files: [{ uploadId: one.id }] }
    const id = await service.submit('hashing', input)
    expect(await service.submit('hashing', input)).toBe(id)
    await expect(service.submit('hashing', { ...input, files: [{ uploadId: other.id }] })).rejects.toThrow(
      'IDEMPOTENCY_CONFLICT',
    )
  })

  test('writes each down in the audit log, refused ones too', async () => {
    const { id } = await upload(service, 'noted', { name: 'noted.txt', type: 'text/plain' })
    await send(service, 'noted', { name: 'noted.exe', type: 'application/x-msdownload' })
    const { auditLog } = await service.query<{ auditLog: { edges: readonly { readonly node: unknown }[] } }>(
      '{ auditLog(first: 2, filter: { action: "upload.create" }) { edges { node { targetKind targetId result details actor { kind } } } } }',
    )
    expect(auditLog.edges.map(({ node }) => node)).toMatchObject([
      {
        targetKind: 'upload',
        targetId: null,
        result: 'UNSUPPORTED_TYPE',
        details: { mediaType: 'application/x-msdownload' },
      },
      {
        targetId: id,
        result: 'OK',
        details: { sha256: sha256('noted') },
        actor: { kind: 'local' },
      },
    ])
    expect(await service.query('{ auditVerification { ok } }')).toEqual({ auditVerification: { ok: true } })
  })

  test('keeps nothing of a file whose client hangs up, nor of one in whose middle it was killed', async () => {
    const before = await kept(service)
    const aborted = await begin(service)
    aborted.cut()
    await vi.waitFor(async () => {
      expect(await kept(service)).toEqual(before)
    })
    const killed = await begin(service)
    await service.down('SIGKILL')
    killed.cut()
    expect(await kept(service)).not.toEqual(before)
    await service.up()
    await vi.waitFor(
      async () => {
        expect(await kept(service)).toEqual(before)
      },
      { timeout: 10_000 },
    )
  })

  test('answers one who goes on sending what is refused, and then hangs up', async () => {
    const url = new URL('/uploads?name=x', service.url)
    const headers = { 'content-type': 'application/octet-stream', 'content-length': '100000000' }
    const call = request(url, { method: 'POST', headers })
    call.on('error', () => undefined)
    call.write(LARGE)
    const [response] = (await once(call, 'response')) as [{ readonly statusCode: number }]
    expect(response.statusCode).toBe(413)
    await once(call, 'close')
  })
})

describe('files of several owners', () => {
  let service: TestService
  const keys = new Map<string, string>()
  beforeAll(async () => {
    service = await TestService.start({
      runner: 'process',
      env: { AUTH: 'required' },
      presets: { hashing: script(`${CONNECTED}; ${HASHING}; ${FINISHED}`) },
    })
    keys.set('first', /(gpu_\w+)/.exec(service.output)?.[1] ?? '')
    for (const [name, role, owner] of [
      ['ada', 'SUBMIT', 'acme'],
      ['eve', 'SUBMIT', 'other'],
      ['reader', 'READ', 'acme'],
      ['operator', 'OPERATE', 'ops'],
    ] as const) {
      const { createApiKey } = await ask<{ createApiKey: { text: string } }>(
        'first',
        'mutation ($input: CreateApiKeyInput!) { createApiKey(input: $input) { text } }',
        { input: { name, role, owner } },
      )
      keys.set(name, createApiKey.text)
    }
  })
  afterAll(() => service[Symbol.asyncDispose]())

  const key = (name: string): string => keys.get(name) ?? name

  async function ask<T>(who: string, query: string, variables: object = {}): Promise<T> {
    const response = await fetch(service.url, {
      method: 'POST',
      headers: { 'content-type': 'application/json', authorization: `Bearer ${key(who)}` },
      body: JSON.stringify({ query, variables }),
    })
    return ((await response.json()) as { readonly data: T }).data
  }

  const SUBMIT = `mutation ($files: [TaskFileInput!]) { submitTask(input: { presetId: "test/hashing", files: $files }) {
    ... on SubmitTaskSuccess { task { id files { url } } } ... on Problem { message } } }`
  const submit = async (who: string, uploadId: string) =>
    (
      await ask<{ submitTask: { task?: { id: string; files: { url: string }[] }; message?: string } }>(
        who,
        SUBMIT,
        {
          files: [{ uploadId }],
        },
      )
    ).submitTask

  test('are for the tasks of who has sent them, and for who may see such a task', async () => {
    const { id } = await upload(service, 'secret', { key: key('ada') })
    const unknown = '01900000-0000-7000-8000-000000000000'
    const { message: ofNone } = await submit('eve', unknown)
    for (const who of ['eve', 'operator', 'first'])
      expect((await submit(who, id)).message?.replace(id, unknown)).toBe(ofNone)
    const { task } = await submit('ada', id)
    const statuses: Record<string, number> = {}
    for (const who of ['ada', 'reader', 'operator', 'first', 'eve', 'nobody']) {
      const headers = { authorization: `Bearer ${key(who)}` }
      statuses[who] = (await fetch(new URL(task?.files[0]?.url ?? '', service.url), { headers })).status
    }
    expect(statuses).toEqual({ ada: 200, reader: 200, operator: 200, first: 200, eve: 404, nobody: 401 })
  })

  test('are sent by who may submit', async () => {
    expect(await send(service, 'x', { key: key('reader') })).toMatchObject({ status: 403, code: 'FORBIDDEN' })
    expect(await send(service, 'x', { key: 'gpu_wrong' })).toMatchObject({ status: 401 })
    expect(await send(service, 'x')).toMatchObject({ status: 401, code: 'UNAUTHENTICATED' })
    const token = async (input: string): Promise<string> =>
      (
        await ask<{ createBrowserToken: { token: string } }>(
          'ada',
          `mutation { createBrowserToken(input: ${input}) { ... on CreateBrowserTokenSuccess { token } } }`,
        )
      ).createBrowserToken.token
    const ann = await token('{ presetId: "test/hashing", subject: "ann", role: SUBMIT }')
    const anns = await upload(service, 'of ann', { key: ann })
    expect(
      await submit(await token('{ presetId: "test/hashing", subject: "bob", role: SUBMIT }'), anns.id),
    ).toHaveProperty('message')
    const { task } = await submit(ann, anns.id)
    expect(task).toBeDefined()
    expect(
      await send(service, 'x', { key: await token(`{ taskId: "${task?.id ?? ''}", role: SUBMIT }`) }),
    ).toMatchObject({ status: 403 })
    // An account has what is below it.
    expect(await submit('ada', (await upload(service, 'more', { key: ann })).id)).toHaveProperty('task')
  })
})

describe('files that nobody needs', () => {
  let service: TestService
  beforeAll(async () => {
    service = await TestService.start({
      runner: 'process',
      // 3.6 s.
      env: { UPLOAD_HOURS: '0.001', HOUSEKEEPING_SECONDS: '0.2' },
      presets: { hashing: script(`${CONNECTED}; ${HASHING}; ${FINISHED}`) },
    })
  })
  afterAll(() => service[Symbol.asyncDispose]())

  test('go when they expire, but for those that a task has: they go with the last one', async () => {
    const [unused, used] = [await upload(service, 'unused'), await upload(service, 'used', { name: 'f' })]
    const task = await service.run('hashing', { files: [{ uploadId: used.id }] })
    await vi.waitFor(
      async () => {
        expect(await kept(service)).toEqual([used.id])
      },
      { timeout: 15_000, interval: 100 },
    )
    const presetId = 'test/hashing'
    const late = async ({ id }: { readonly id: string }) =>
      (await refusal(service, 'submitTask', { presetId, files: [{ uploadId: id }] })).issues
    expect(await late(unused)).toMatchObject([{ message: expect.stringContaining('is no upload') as string }])
    expect(await late(used)).toMatchObject([{ message: expect.stringContaining('has expired') as string }])
    const { retryTask } = await service.query<{ retryTask: { task: { id: string } } }>(
      'mutation ($id: ID!) { retryTask(id: $id) { ... on SubmitTaskSuccess { task { id } } } }',
      { id: task.id },
    )
    const again = await service.ended(retryTask.task.id)
    expect(again.text).toBe(`${sha256('used')} f;`)
    const remove = 'mutation ($id: ID!) { deleteTask(id: $id) { __typename } }'
    await service.query(remove, { id: task.id })
    expect(await kept(service)).toEqual([used.id])
    await service.query(remove, { id: again.id })
    expect(await kept(service)).toEqual([])
    expect(await artifactBytes(service)).toBe('0')
    const { auditLog } = await service.query<{ auditLog: { edges: { node: object }[] } }>(
      '{ auditLog(first: 10, filter: { action: "upload.remove" }) { edges { node { targetId actor { kind } } } } }',
    )
    expect(auditLog.edges).toMatchObject([{ node: { targetId: unused.id, actor: { kind: 'service' } } }])
  })
})
