import { chmod, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { noDocker, CONNECTED, FINISHED, script } from './scripts.ts'
import { faultsOf, TestService, TASK_FIELDS, type SeenTask } from './service.ts'

describe.skipIf(noDocker)('two simulated GPUs', () => {
  let service: TestService
  beforeAll(async () => {
    service = await TestService.start({
      runner: 'docker',
      env: { GPUS: 'simulated:2x8192' },
      presets: {
        one: script(
          `${CONNECTED}; echo "{\\"event\\":\\"text\\",\\"content\\":\\"$GPU_DEVICE\\"}"; sleep 0.2; ${FINISHED}`,
          { gpus: { count: 1 } },
        ),
        default: script(`${CONNECTED}; ${FINISHED}`, { gpus: undefined }),
        none: script(`${CONNECTED}; ${FINISHED}`),
        three: script(FINISHED, { gpus: { count: 3 } }),
      },
    })
  })
  afterAll(() => service[Symbol.asyncDispose]())

  test('serve 20 tasks at once, never two on one GPU, in the order of their submission', async () => {
    const ids = await Promise.all(Array.from({ length: 20 }, () => service.submit('one')))
    const tasks = await Promise.all(ids.map((id) => service.ended(id)))
    const spans = tasks.map(({ status, gpuIds, startedAt, finishedAt, text }) => {
      expect(status).toBe('COMPLETED')
      expect(gpuIds).toHaveLength(1)
      return {
        gpu: gpuIds[0],
        device: text,
        from: Date.parse(startedAt ?? ''),
        to: Date.parse(finishedAt ?? ''),
      }
    })
    for (const device of ['0', '1']) {
      const taken = spans.filter((span) => span.device === device).sort((a, b) => a.from - b.from)
      expect(taken.length).toBeGreaterThan(0)
      expect(new Set(taken.map((span) => span.gpu)).size).toBe(1)
      taken.slice(1).forEach((span, index) => {
        expect(span.from).toBeGreaterThanOrEqual(taken[index]?.to ?? Number.NaN)
      })
    }
    const started = tasks
      .toSorted((a, b) => (a.id < b.id ? -1 : 1))
      .map((task) => Date.parse(task.startedAt ?? ''))
    expect(started).toEqual(started.toSorted((a, b) => a - b))
  })

  test('are taken by a preset that says nothing of GPUs, and left alone by one that wants none', async () => {
    expect((await service.ended(await service.submit('default'))).gpuIds).toHaveLength(1)
    expect((await service.ended(await service.submit('none'))).gpuIds).toEqual([])
  })

  test('refuse a task that needs more, or others, with nothing written', async () => {
    const count = async (): Promise<number> =>
      (await service.query<{ tasks: { totalCount: number } }>('{ tasks { totalCount } }')).tasks.totalCount
    const before = await count()
    await expect(service.submit('three')).rejects.toThrow('NO_SUCH_GPU')
    await expect(service.submit('one', { gpuIds: ['GPU-of-somebody-else'] })).rejects.toThrow(
      /NO_SUCH_GPU|no GPU/,
    )
    expect(await count()).toBe(before)
  })

  test('are marked as simulated and shown busy while a worker holds them', async () => {
    const id = await service.submit('one')
    await service.reached(id, 'RUNNING')
    const { gpus } = await service.query<{
      gpus: { id: string; status: string; simulated: boolean; memoryClaimedMb: number }[]
    }>('{ gpus { id status simulated memoryClaimedMb } }')
    expect(gpus.every((gpu) => gpu.simulated)).toBe(true)
    expect(gpus.map((gpu) => [gpu.status, gpu.memoryClaimedMb]).sort()).toEqual([
      ['AVAILABLE', 0],
      ['BUSY', 8_192],
    ])
    await service.ended(id)
  })
})

describe.skipIf(noDocker)('refusals and failures to start', () => {
  let service: TestService
  beforeAll(async () => {
    service = await TestService.start({
      runner: 'docker',
      presets: {
        ok: script(`${CONNECTED}; ${FINISHED}`, {
          input: {
            type: 'object',
            properties: { prompt: { type: 'string' } },
            required: ['prompt'],
            additionalProperties: false,
          },
        }),
        'no-image': script(FINISHED, { docker_image: 'no-such-image:latest' }),
        greedy: script(`${CONNECTED}; dd if=/dev/zero of=/dev/null bs=300M count=1 || exit 1; ${FINISHED}`, {
          resources: { memory: '64MiB' },
        }),
        gpu: script(FINISHED, { gpus: { count: 1 } }),
      },
    })
  })
  afterAll(() => service[Symbol.asyncDispose]())

  const submit = (input: Record<string, unknown>): Promise<{ submitTask: Record<string, unknown> }> =>
    service.query(
      `mutation ($input: SubmitTaskInput!) { submitTask(input: $input) { __typename ... on Problem { message }
        ... on UnknownPresetProblem { presetId } ... on InvalidInputProblem { issues { path message } } ... on RefusedProblem { code }
        ... on SubmitTaskSuccess { duplicate task { id } } } }`,
      { input },
    )

  test('name an unknown preset', async () => {
    expect((await submit({ presetId: 'llama/inference' })).submitTask).toMatchObject({
      __typename: 'UnknownPresetProblem',
      presetId: 'llama/inference',
    })
  })

  test('name every place of the input that is wrong', async () => {
    const { submitTask } = await submit({ presetId: 'test/ok', input: { prompt: 1, extra: true } })
    expect(submitTask).toMatchObject({ __typename: 'InvalidInputProblem' })
    const issues = submitTask['issues'] as { path: string }[]
    expect(issues.map((issue) => issue.path).sort()).toEqual(
      expect.arrayContaining([expect.stringContaining('prompt')]),
    )
    expect(issues.length).toBe(2)
  })

  test('name labels that are no flat map of texts', async () => {
    const { submitTask } = await submit({
      presetId: 'test/ok',
      input: { prompt: '' },
      labels: { a: 'x', b: { c: 1 } },
    })
    expect(submitTask).toMatchObject({ __typename: 'InvalidInputProblem', issues: [{ path: 'labels.b' }] })
  })

  test('give one task for one idempotency key, and refuse another request under it', async () => {
    const input = { presetId: 'test/ok', input: { prompt: 'a' }, idempotencyKey: 'key-1' }
    const answers = await Promise.all(Array.from({ length: 50 }, () => submit(input)))
    const ids = new Set(answers.map(({ submitTask }) => (submitTask['task'] as { id: string }).id))
    expect(ids.size).toBe(1)
    expect(answers.filter(({ submitTask }) => submitTask['duplicate'] === false)).toHaveLength(1)
    expect((await submit({ ...input, input: { prompt: 'b' } })).submitTask).toMatchObject({
      code: 'IDEMPOTENCY_CONFLICT',
    })
  })

  test.each([
    ['no-image', 'IMAGE_NOT_FOUND', /no-such-image:latest.*(build|load)/s],
    ['greedy', 'OUT_OF_MEMORY', /memory/],
  ])('a task of "%s" fails with %s and says what to do', async (kind, code, message) => {
    const id = await service.submit(kind)
    const events = await service.events(id)
    expect(faultsOf(events)).toEqual([])
    const task = await service.task(id)
    expect(task.status).toBe('FAILED')
    expect(task.error?.code).toBe(code)
    expect(task.error?.message).toMatch(message)
    expect(task.explanation).toMatch(message)
  })

  test('a GPU without a driver in the engine fails with GPU_UNAVAILABLE', async () => {
    const folder = service.dataDir
    const smi = join(folder, 'nvidia-smi')
    await writeFile(
      smi,
      `#!/bin/sh
echo '<nvidia_smi_log><gpu><uuid>GPU-11111111-2222-3333-4444-555555555555</uuid><product_name>Test GPU</product_name>
<fb_memory_usage><total>8192 MiB</total><used>0 MiB</used></fb_memory_usage></gpu></nvidia_smi_log>'
`,
    )
    await chmod(smi, 0o755)
    await using other = await TestService.start({
      runner: 'docker',
      env: { GPUS: 'auto', PATH: `${folder}:${process.env['PATH'] ?? ''}` },
      presets: { gpu: script(FINISHED, { gpus: { count: 1 } }) },
    })
    const task = await other.ended(await other.submit('gpu'))
    expect(task.error?.code).toBe('GPU_UNAVAILABLE')
    expect(task.gpuIds).toEqual(['GPU-11111111-2222-3333-4444-555555555555'])
  })

  test('a task waits, with the reason, while the engine is away', async () => {
    await using other = await TestService.start({
      runner: 'docker',
      env: { DOCKER_HOST: 'unix:///nowhere/docker.sock' },
      presets: { ok: script(FINISHED) },
    })
    const id = await other.submit('ok')
    await expect
      .poll(async () => (await other.task(id)).explanation, { timeout: 10_000 })
      .toContain('No worker can be started')
    expect(await other.task(id)).toMatchObject({ status: 'QUEUED', queuePosition: 1 })
    const ready = await fetch(new URL('/readyz', other.url))
    expect(await ready.json()).toMatchObject({ checks: { runner: { ok: false } } })
    expect(await other.cancel(id)).toMatchObject({ status: 'CANCELLED' })
  })
})

describe('the history', () => {
  let service: TestService
  beforeAll(async () => {
    service = await TestService.start({
      runner: 'process',
      presets: { a: script(`${CONNECTED}; ${FINISHED}`), b: script(`${CONNECTED}; exit 1`) },
    })
  })
  afterAll(() => service[Symbol.asyncDispose]())

  const page = async (
    args: string,
  ): Promise<{ ids: string[]; total: number; next: boolean; end: string | null }> => {
    const { tasks } = await service.query<{
      tasks: {
        totalCount: number
        edges: { node: SeenTask }[]
        pageInfo: { hasNextPage: boolean; endCursor: string | null }
      }
    }>(
      `{ tasks(${args}) { totalCount edges { cursor node { ${TASK_FIELDS} } } pageInfo { hasNextPage endCursor } } }`,
    )
    return {
      ids: tasks.edges.map(({ node }) => node.id),
      total: tasks.totalCount,
      next: tasks.pageInfo.hasNextPage,
      end: tasks.pageInfo.endCursor,
    }
  }

  test('is paged newest first and filtered by status, preset, label, text and time', async () => {
    const a1 = await service.submit('a', { labels: { team: 'red' }, input: { prompt: 'a fox' } })
    const b1 = await service.submit('b', { labels: { team: 'blue' }, input: { prompt: 'a 100% dog' } })
    const a2 = await service.submit('a', { labels: { team: 'red' }, input: { prompt: 'a cat' } })
    await Promise.all([a1, b1, a2].map((id) => service.ended(id)))
    const first = await page('first: 2')
    expect(first).toMatchObject({ ids: [a2, b1], total: 3, next: true })
    expect(await page(`first: 2, after: "${first.end}"`)).toMatchObject({ ids: [a1], next: false })
    expect((await page('first: 10, filter: {status: [FAILED]}')).ids).toEqual([b1])
    expect((await page('first: 10, filter: {presetId: "test/a"}')).ids).toEqual([a2, a1])
    expect((await page('first: 10, filter: {label: {key: "team", value: "red"}}')).ids).toEqual([a2, a1])
    expect((await page('first: 10, filter: {text: "FOX a"}')).ids).toEqual([a1])
    expect((await page('first: 10, filter: {text: "(100%)"}')).ids).toEqual([b1])
    expect((await page('first: 10, filter: {createdAfter: "2100-01-01T00:00:00Z"}')).ids).toEqual([])
    await expect(page('first: 0')).rejects.toThrow('BAD_USER_INPUT')
    await expect(page('first: 101')).rejects.toThrow('BAD_USER_INPUT')
  })

  test('tells every change of tasks that match to whoever watches', async () => {
    const seen: string[] = []
    const updates = service.subscribe<{ taskUpdated: { id: string; status: string } }>(
      'subscription { taskUpdated(filter: {presetId: "test/b"}) { id status } }',
    )
    const watching = (async () => {
      for await (const { taskUpdated } of updates) {
        seen.push(taskUpdated.status)
        if (taskUpdated.status === 'FAILED') break
      }
    })()
    await service.submit('a')
    await service.submit('b')
    await watching
    const moves = seen.filter((status, index) => status !== seen[index - 1])
    expect(['QUEUED', 'STARTING', 'RUNNING', 'FAILED'].filter((status) => moves.includes(status))).toEqual(
      moves,
    )
    expect(moves.at(-1)).toBe('FAILED')
  })

  test('applies a changed presets file, and keeps the old presets while it is broken', async () => {
    const reload = (): Promise<{ reloadPresets: Record<string, unknown> }> =>
      service.query(`mutation { reloadPresets { __typename ... on ReloadPresetsSuccess { added changed removed presets { id } }
        ... on InvalidPresetsProblem { message issues { file line column message } } } }`)
    await writeFile(service.presetsFile, 'models:\n  test:\n    a:\n      docker_imag: "x"\n')
    const broken = (await reload()).reloadPresets
    expect(broken).toMatchObject({ __typename: 'InvalidPresetsProblem' })
    expect((broken['issues'] as { line: number; message: string }[]).map(({ line }) => line)).toContain(4)
    expect((await service.query<{ presets: unknown[] }>('{ presets { id } }')).presets).toHaveLength(2)
    await service.writePresets({ a: script(CONNECTED), c: script(CONNECTED) })
    await reload()
    const { presets } = await service.query<{ presets: { id: string }[] }>('{ presets { id } }')
    expect(presets.map((preset) => preset.id).sort()).toEqual(['test/a', 'test/c'])
  })
})
