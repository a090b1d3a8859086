import { mkdir, symlink, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { once } from 'node:events'
import { join } from 'node:path'
import type { WorkerSpec } from '@gpu-service/tasks'
import { describe, expect, it } from 'vitest'
import { issuesOf, marked, presetFileWith, presetsFolder, presetWith } from './presets-folder.ts'
import { GOOD_KEYS, WRONG_KEYS } from './keys.ts'

const DEFAULT_SPEC: WorkerSpec = {
  ...(await presetWith('')).spec,
}

describe('a key of a preset', () => {
  it.each(GOOD_KEYS)('takes $keys', async ({ keys, spec }) => {
    expect((await presetWith(keys)).spec).toEqual({ ...DEFAULT_SPEC, ...spec })
  })

  it.each(WRONG_KEYS)('is refused at its place: $keys', async ({ keys, says }) => {
    const { content, position } = marked(presetFileWith(keys))
    const [issue, ...more] = await issuesOf(content)
    expect(issue).toContain(says)
    expect(issue?.split(' ')[0]).toBe(position)
    expect(issue).toMatch(/^\d+:\d+ models\.m\.k/)
    expect(more).toEqual([])
  })

  it('has a default where it is absent', () => {
    expect(DEFAULT_SPEC).toEqual({
      presetId: 'm/k',
      model: 'm',
      kind: 'k',
      mode: 'ONE_OFF',
      image: 'worker:1',
      command: [],
      localCommand: null,
      pull: 'never',
      env: {},
      secrets: [],
      modelPath: null,
      gpus: { count: 'default', share: 'exclusive', memoryMb: null, ids: null, names: null },
      limits: { memoryMb: null, cpus: null, processes: 4096, sharedMemoryMb: 1024, tmpMb: 1024 },
      output: { mb: 256, events: 5_000_000, artifacts: 10_000, artifactsMb: 10_240 },
      network: 'none',
      volumes: [],
      relax: { user: null, writableRoot: false, capabilities: [] },
      timeouts: {
        queueMs: null,
        startMs: 1_800_000,
        runMs: 86_400_000,
        silenceMs: null,
        ackMs: 30_000,
        stopGraceMs: 10_000,
        finishGraceMs: 10_000,
      },
      retry: { maxAttempts: 2, backoffMs: 2_000, on: ['session_died', 'unacknowledged', 'gpu_lost'] },
      session: null,
    })
  })

  it('gives the preset its description and its input schema', async () => {
    const preset = await presetWith(
      'description: Writes text\ninput: {type: object, properties: {n: {type: integer}}}',
    )
    expect(preset).toMatchObject({
      id: 'm/k',
      description: 'Writes text',
      inputSchema: { type: 'object', properties: { n: { type: 'integer' } } },
    })
  })
})

describe('an image reference', () => {
  it.each([
    'loading-worker',
    'loading-worker:latest',
    'team/llama:2.1_cuda-12',
    'registry.example.com:5000/team/llama:2.1',
    'localhost/worker',
    `ghcr.io/a/b__c/d--e@sha256:${'0a'.repeat(32)}`,
    `worker:1@sha256:${'ff'.repeat(32)}`,
  ])('may be %s', async (image) => {
    expect((await presetWith(`docker_image: "${image}"`)).spec.image).toBe(image)
  })

  it.each([
    'Worker:latest',
    'worker:',
    ':latest',
    'worker latest',
    'worker:-x',
    'worker@sha256:12',
    '/worker',
    'a//b',
    'https://example.com/worker',
    'worker;rm',
    '-worker',
    `a${'/b'.repeat(200)}`,
  ])('may not be %s', async (image) => {
    const issues = await issuesOf(presetFileWith(`docker_image: "${image}"`))
    expect(issues).toHaveLength(1)
    expect(issues[0]).toMatch(/^4:21 models\.m\.k\.docker_image: (expected an image reference|longer than)/)
  })
})

describe('environment variables', () => {
  it('are the text that stands in the file, whatever YAML makes of it', async () => {
    const { spec } = await presetWith(
      `env_vars: {A: 1e3, B: 0x10, C: 1.0, D: true, E: 'x y', F: '', G: no, H: 2026-11-23, I: 0o17, J: -.5}`,
    )
    expect(spec.env).toEqual({
      A: '1e3',
      B: '0x10',
      C: '1.0',
      D: 'true',
      E: 'x y',
      F: '',
      G: 'no',
      H: '2026-11-23',
      I: '0o17',
      J: '-.5',
    })
  })

  it.each([
    'LD_PRELOAD',
    'LD_LIBRARY_PATH',
    'LD_AUDIT',
    'DYLD_INSERT_LIBRARIES',
    'GLIBC_TUNABLES',
    'GCONV_PATH',
    'NVIDIA_VISIBLE_DEVICES',
    'CUDA_VISIBLE_DEVICES',
    'NVIDIA_DRIVER_CAPABILITIES',
    'NVIDIA_IMEX_CHANNELS',
    'NVIDIA_GDS',
    'NVIDIA_MOFED',
    'HIP_VISIBLE_DEVICES',
    'ROCR_VISIBLE_DEVICES',
    'GPU_DEVICE',
    'TASK_ID',
    'INPUT_FILE',
    'TASK_INPUT',
    'INPUT_DIR',
    'OUTPUT_DIR',
    'SECRETS_DIR',
    'TASK_FILES',
    'PREVIOUS_DIR',
    'PREVIOUS_FILES',
    'PROTOCOL_VERSION',
  ])('may not set %s', async (name) => {
    expect(await issuesOf(presetFileWith(`env_vars: {${name}: x}`))).toEqual([
      expect.stringMatching(new RegExp(`^5:18 models\\.m\\.k\\.env_vars\\.${name}: may not be set`)),
    ])
  })

  it.each(['NVIDIA_TF32_OVERRIDE', 'CUDA_LAUNCH_BLOCKING', 'PYTHONPATH', 'OLD_PATH', 'NCCL_DEBUG'])(
    'may set %s',
    async (name) => {
      expect((await presetWith(`env_vars: {${name}: x}`)).spec.env).toEqual({ [name]: 'x' })
    },
  )

  it.each(['"a=b"', '"a\\nb"', '"a\\0b"', '"a b"', '1A', '"ä"', '""'])(
    'may not have the name %s',
    async (name) => {
      expect(await issuesOf(presetFileWith(`env_vars: {${name}: x}`))).toEqual([
        expect.stringMatching(/^5:18 .*(letters, digits and underscores|no text may hold)/),
      ])
    },
  )

  it('may have several lines, and no NUL', async () => {
    expect((await presetWith('env_vars: {A: "a\\nb=c"}')).spec.env).toEqual({ A: 'a\nb=c' })
    expect(await issuesOf(presetFileWith('env_vars: {A: "a\\0b"}'))).toEqual([
      '5:21 models.m.k.env_vars.A: the text holds a character that no text may hold',
    ])
    expect(await issuesOf(presetFileWith('command: [a, "b\\0"]'))).toEqual([
      '5:20 models.m.k.command[1]: the text holds a character that no text may hold',
    ])
  })

  it('win over model_name', async () => {
    expect((await presetWith('model_name: llama')).spec.env).toEqual({ MODEL_NAME: 'llama' })
    const both = await presetWith('model_name: llama\nenv_vars: {MODEL_NAME: other, MODEL_PATH: /weights}')
    expect(both.spec.env).toEqual({ MODEL_NAME: 'other', MODEL_PATH: '/weights' })
  })

  it('have a bound together, and their values are never shown', async () => {
    const secret = 's3cret'.repeat(6_000)
    expect(await issuesOf(presetFileWith(`env_vars: {A: ${secret}, B: ${secret}}`))).toEqual([
      '5:17 models.m.k.env_vars: all variables together are larger than 65536 bytes',
    ])
  })
})

describe('a volume', () => {
  it('is mounted from where its symbolic links lead, when that is in an allowed folder', async () => {
    await using host = await presetsFolder()
    await mkdir(join(host.path, 'sets', 'images'), { recursive: true })
    await symlink(join(host.path, 'sets'), join(host.path, 'link'))
    await symlink(host.path, join(host.path, 'root'))
    const { spec } = await presetWith(
      `volumes:
- {source: ${host.path}/link/images, target: /images}
- {source: ${host.path}/sets, target: /out, read_only: false}`,
      { volumeRoots: [join(host.path, 'root')] },
    )
    expect(spec.volumes).toEqual([
      { source: join(host.path, 'sets/images'), target: '/images', readOnly: true },
      { source: join(host.path, 'sets'), target: '/out', readOnly: false },
    ])
  })

  it('may not leave the allowed folders, by a link or by a name that only begins like one', async () => {
    await using host = await presetsFolder()
    await mkdir(join(host.path, 'sets'))
    await mkdir(join(host.path, 'sets-secret'))
    await symlink('/', join(host.path, 'sets', 'escape'))
    const sources = ['sets-secret', 'sets/escape/etc', 'sets/absent'].map((name) => join(host.path, name))
    const file = presetFileWith(
      `volumes: [${sources.map((source, i) => `{source: ${source}, target: /v${i}}`).join(', ')}]`,
    )
    const issues = await issuesOf(file, { volumeRoots: [join(host.path, 'sets')] })
    expect(issues).toEqual([
      expect.stringContaining('sets-secret is outside of the folders that may be mounted'),
      expect.stringContaining('escape/etc is outside of the folders that may be mounted'),
      expect.stringContaining('absent may not be mounted: there is no file of that name'),
    ])
  })

  it('may not be a socket, such as that of an engine', async () => {
    await using host = await presetsFolder()
    const socket = join(host.path, 'docker.sock')
    const server = createServer().listen(socket)
    await once(server, 'listening')
    const file = presetFileWith(`volumes: [{source: ${socket}, target: /run/docker.sock}]`)
    const issues = await issuesOf(file, { volumeRoots: [host.path] })
    server.close()
    expect(issues).toEqual([expect.stringContaining('is neither a folder nor a file')])
  })

  it('is refused where the service allows no folder, or none that exists', async () => {
    await using host = await presetsFolder('')
    const file = presetFileWith(`volumes: [{source: ${host.path}, target: /v}]`)
    expect(await issuesOf(file)).toEqual([expect.stringContaining('the service allows no folder')])
    expect(await issuesOf(file, { volumeRoots: ['/no/such/folder'] })).toEqual([
      expect.stringContaining('is outside of the folders that may be mounted (/no/such/folder)'),
    ])
  })

  it('is looked for even where other things are wrong', async () => {
    const file = presetFileWith('network: host\nvolumes: [{source: /nowhere, target: /v}]')
    expect(await issuesOf(file, { volumeRoots: ['/tmp'] })).toHaveLength(2)
  })

  it.each([
    '/',
    '/models',
    '/models/a',
    '/proc/x',
    '/sys',
    '/dev/shm',
    '/task/runs',
    '/run/secrets',
    '/run/secrets/x',
    '/cache',
    '/home/worker',
    '/etc',
    '/usr',
    '/tmp',
  ])('may not be mounted at %s', async (target) => {
    await using host = await presetsFolder()
    await writeFile(join(host.path, 'a'), '')
    const file = presetFileWith(`volumes: [{source: ${host.path}/a, target: ${target}}]`)
    expect(await issuesOf(file, { volumeRoots: [host.path] })).toEqual([
      expect.stringContaining(`nothing may be mounted at ${target}`),
    ])
  })

  it.each([
    '/modelsx',
    '/home/worker/.cache/huggingface',
    '/cache/hub',
    '/usr/share/sets',
    '/tmp/in',
    '/etc/worker.json',
  ])('may be mounted at %s', async (target) => {
    await using host = await presetsFolder()
    await writeFile(join(host.path, 'a'), '')
    const keys = `volumes: [{source: ${host.path}/a, target: ${target}}]`
    expect((await presetWith(keys, { volumeRoots: [host.path] })).spec.volumes[0]?.target).toBe(target)
  })
})

describe('names of models and kinds', () => {
  it.each(['a', '7b', 'qwen2.5-7B_instruct', '1.0', `a${'b'.repeat(63)}`, '0x10', 'null', 'yes'])(
    'may be %s',
    async (name) => {
      await using folder = await presetsFolder(`models: {${name}: {${name}: {docker_image: x}}}`)
      const catalog = await folder.open()
      expect(catalog.issues()).toEqual([])
      expect(catalog.preset(`${name}/${name}`)?.spec).toMatchObject({ model: name, kind: name })
    },
  )

  it.each(['-a', '.a', '..', 'a/b', 'a b', 'ä', `a${'b'.repeat(64)}`, ''])(
    'may not be "%s"',
    async (name) => {
      const issues = await issuesOf(
        `models: {"${name}": {k: {docker_image: x}}, m: {"${name}": {docker_image: x}}}`,
      )
      expect(issues).toHaveLength(2)
      for (const issue of issues) expect(issue).toContain('a name has 1 to 64 letters')
    },
  )
})
