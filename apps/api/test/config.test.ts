import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import {
  type Config,
  type ConfigProblem,
  describeProblems,
  type Environment,
  readConfig,
} from '../src/config.ts'

let cwd = ''
beforeEach(() => {
  cwd = mkdtempSync(join(tmpdir(), 'config-'))
})
afterEach(() => {
  rmSync(cwd, { recursive: true })
})

function read(env: Environment = {}): Config {
  const result = readConfig(env, { cwd })
  if (result.status === 'invalid') throw new Error(describeProblems(result.problems))
  return result.config
}

function problems(env: Environment): readonly ConfigProblem[] {
  const result = readConfig(env, { cwd })
  return result.status === 'invalid' ? result.problems : []
}

test('has a default for everything', () => {
  expect(read()).toEqual({
    host: '127.0.0.1',
    port: 4000,
    dataDir: join(cwd, 'data'),
    presetsFile: null,
    modelsDir: join(cwd, 'data/models'),
    workersDir: null,
    databaseFile: null,
    runner: 'auto',
    gpus: 'auto',
    maxWorkers: 32,
    maxPassMs: 30_000,
    housekeepingMs: 30_000,
    scrubAfterMs: 60_000,
    retention: {
      maxAgeMs: 2_592_000_000,
      maxArtifactBytes: 20 * 1024 ** 3,
      maxDatabaseBytes: 10 * 1024 ** 3,
      maxAuditAgeMs: null,
    },
    uploads: {
      maxBytes: 4 * 1024 ** 3,
      maxUnusedBytes: 16 * 1024 ** 3,
      keepMs: 86_400_000,
      types: expect.arrayContaining(['audio/*', 'application/json']) as unknown,
    },
    gpuSampleMs: 5_000,
    allowedOrigins: [],
    allowedHosts: [],
    shutdown: 'detach',
    auth: 'loopback',
    logLevel: 'info',
    dockerHost: null,
    volumeRoots: [],
    secretRoots: [],
    secretEnvPrefix: 'WORKER_SECRET_',
  })
})

test('reads every setting from the environment', () => {
  const env = {
    HOST: '::1',
    PORT: '0',
    DATA_DIR: '/var/lib/gpu',
    PRESETS_FILE: 'my.yaml',
    WORKERS_DIR: '../workers',
    DATABASE_URL: 'file:/var/lib/gpu.db',
    RUNNER: 'process',
    GPUS: 'simulated:2x24576',
    MAX_WORKERS: '20',
    MAX_PASS_SECONDS: '0',
    HOUSEKEEPING_SECONDS: '2.5',
    PRIVACY_GRACE_SECONDS: '7',
    RETENTION_DAYS: '0.5',
    ARTIFACTS_MAX_GB: 'off',
    DATABASE_MAX_GB: '0',
    AUDIT_DAYS: '365',
    UPLOAD_MAX_GB: '0.5',
    UPLOADS_UNUSED_MAX_GB: 'off',
    UPLOAD_HOURS: '0.5',
    UPLOAD_TYPES: 'Audio/*, text/csv',
    GPU_SAMPLE_SECONDS: '0.25',
    ALLOWED_ORIGINS: 'https://console.example, http://localhost:5173,',
    ALLOWED_HOSTS: 'GPU.example,[fd00::1]',
    SHUTDOWN: 'stop',
    AUTH: 'required',
    LOG_LEVEL: 'debug',
    DOCKER_HOST: 'unix:///run/docker.sock',
    VOLUME_ROOTS: '/srv/models/,/data',
    SECRET_ROOTS: '/run/credentials',
    SECRET_ENV_PREFIX: 'FOR_WORKERS_',
  }
  expect(read(env)).toEqual({
    host: '::1',
    port: 0,
    dataDir: '/var/lib/gpu',
    presetsFile: join(cwd, 'my.yaml'),
    modelsDir: '/var/lib/gpu/models',
    workersDir: join(cwd, '../workers'),
    databaseFile: '/var/lib/gpu.db',
    runner: 'process',
    gpus: { simulated: { count: 2, memoryMb: 24_576 } },
    maxWorkers: 20,
    maxPassMs: 0,
    housekeepingMs: 2_500,
    scrubAfterMs: 7_000,
    retention: {
      ...{
        maxAgeMs: 43_200_000,
        maxArtifactBytes: null,
        maxDatabaseBytes: null,
        maxAuditAgeMs: 31_536_000_000,
      },
    },
    uploads: {
      ...{ maxBytes: 512 * 1024 ** 2, maxUnusedBytes: null, keepMs: 1_800_000 },
      types: ['audio/*', 'text/csv'],
    },
    gpuSampleMs: 250,
    allowedOrigins: ['https://console.example', 'http://localhost:5173'],
    allowedHosts: ['gpu.example', '[fd00::1]'],
    shutdown: 'stop',
    auth: 'required',
    logLevel: 'debug',
    dockerHost: 'unix:///run/docker.sock',
    volumeRoots: ['/srv/models', '/data'],
    secretRoots: ['/run/credentials'],
    secretEnvPrefix: 'FOR_WORKERS_',
  })
})

test('gives what nobody can change', () => {
  const config = read({ GPUS: 'simulated:1x1024', ALLOWED_HOSTS: 'a' })
  expect(Object.isFrozen(config)).toBe(true)
  expect(Object.isFrozen(config.gpus)).toBe(true)
  expect(Object.isFrozen(config.allowedHosts)).toBe(true)
})

test('takes a database file from a URL', () => {
  expect(read({ DATABASE_URL: 'file:x.db' }).databaseFile).toBe(join(cwd, 'x.db'))
  expect(read({ DATABASE_URL: 'file:///x.db' }).databaseFile).toBe('/x.db')
})

test.each([
  ['HOST', 'example.com'],
  ['UPLOAD_HOURS', '0'],
  ['UPLOAD_HOURS', 'off'],
  ['UPLOAD_TYPES', 'audio'],
  ['UPLOAD_TYPES', '*/wav'],
  ['HOST', '127.evil.example'],
  ['PORT', '65536'],
  ['PORT', '-1'],
  ['PORT', '4000x'],
  ['DATABASE_URL', 'mysql://x'],
  ['DATABASE_URL', 'postgresql://x/y'],
  ['RUNNER', 'podman'],
  ['GPUS', 'simulated:0x1024'],
  ['GPUS', 'simulated:65x1024'],
  ['GPUS', 'simulated:2'],
  ['MAX_WORKERS', '0'],
  ['MAX_WORKERS', '1e2'],
  ['MAX_PASS_SECONDS', '86401'],
  ['MAX_PASS_SECONDS', '-1'],
  ['MAX_PASS_SECONDS', '1e3'],
  ['HOUSEKEEPING_SECONDS', '0'],
  ['PRIVACY_GRACE_SECONDS', '-1'],
  ['RETENTION_DAYS', '-1'],
  ['RETENTION_DAYS', 'never'],
  ['ARTIFACTS_MAX_GB', '1e3'],
  ['DATABASE_MAX_GB', '10GB'],
  ['GPU_SAMPLE_SECONDS', '0.05'],
  ['GPU_SAMPLE_SECONDS', 'often'],
  ['ALLOWED_ORIGINS', '*'],
  ['ALLOWED_ORIGINS', 'https://a.example/path'],
  ['ALLOWED_ORIGINS', 'https://ok.example,nonsense'],
  ['ALLOWED_HOSTS', 'a.example:80'],
  ['ALLOWED_HOSTS', 'https://a.example'],
  ['SHUTDOWN', 'kill'],
  ['AUTH', 'none'],
  ['LOG_LEVEL', 'loud'],
  ['DOCKER_HOST', '/run/docker.sock'],
  ['VOLUME_ROOTS', 'relative'],
  ['SECRET_ROOTS', 'relative'],
  ['SECRET_ENV_PREFIX', 'A_'],
  ['SECRET_ENV_PREFIX', 'A=B_C'],
])('refuses %s=%s', (name, value) => {
  expect(problems({ [name]: value }).map((problem) => problem.name)).toEqual([name])
})

test.each(['0.0.0.0', '::', '192.0.2.7'])('takes %s to listen at', (HOST) => {
  expect(read({ HOST }).host).toBe(HOST)
})

test('names all problems at once, with variable, value, source and expectation, but no secret', () => {
  const env = { PORT: 'x', RUNNER: 'y', DATABASE_URL: 'mysql://user:hunter2@db', LOG_LEVEL: 'z' }
  const text = describeProblems(problems(env))
  expect(text.split('\n')).toHaveLength(5)
  expect(text).toContain('PORT="x" (the environment): expected a port from 0 (any free one) to 65535')
  expect(text).toContain('RUNNER="y" (the environment): expected auto, docker or process')
  expect(text).toContain('DATABASE_URL (the environment): expected file:path for SQLite')
  expect(text).not.toContain('hunter2')
})

test('reads a file of settings, and the environment wins', () => {
  writeFileSync(join(cwd, 'gpu-service.env'), '# ours\n\nPORT=5000\r\nRUNNER = "docker"\nHOST=\n')
  expect(read({ PORT: '6000', RUNNER: '' })).toMatchObject({
    port: 6000,
    runner: 'docker',
    host: '127.0.0.1',
  })
})

test('reads the file that is named instead, and misses it where it is not there', () => {
  writeFileSync(join(cwd, 'gpu-service.env'), 'PORT=5000')
  writeFileSync(join(cwd, 'mine.env'), 'RUNNER=docker')
  expect(read({ CONFIG_FILE: 'mine.env' })).toMatchObject({ port: 4000, runner: 'docker' })
  expect(problems({ CONFIG_FILE: 'none.env' })).toMatchObject([
    { name: 'CONFIG_FILE', value: join(cwd, 'none.env') },
  ])
})

test('names file and line of what it does not understand', () => {
  const file = join(cwd, 'gpu-service.env')
  writeFileSync(file, 'PORT=5000\nPROT=1\nnonsense\nPORT=x\n')
  expect(problems({}).map(({ name, source }) => [name, source])).toEqual([
    ['PROT', `${file}:2`],
    ['a line', `${file}:3`],
    ['PORT', `${file}:4`],
  ])
})

test('reads no file that is too large to be one of settings', () => {
  writeFileSync(join(cwd, 'gpu-service.env'), '#'.repeat(65 * 1024))
  expect(problems({})).toMatchObject([{ name: 'CONFIG_FILE' }])
})
