import { readFileSync, statSync } from 'node:fs'
import { isIP } from 'node:net'
import { isAbsolute, join, resolve } from 'node:path'
import { parseGpusSetting, type GpuSource } from '@gpu-service/gpus'
import type { RetentionLimits } from '@gpu-service/tasks'

export const LOG_LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'] as const
export type LogLevel = (typeof LOG_LEVELS)[number]

/** Everything that can be set from outside. Paths are absolute. */
export interface Config {
  /** The address to listen on: always a loopback one. */
  readonly host: string
  /** 0: any free one. */
  readonly port: number
  readonly dataDir: string
  /** `null`: the file that comes with the service. */
  readonly presetsFile: string | null
  readonly modelsDir: string
  /** `null`: the folder that comes with the service. */
  readonly workersDir: string | null
  /** The SQLite database; `null`: in the data folder. */
  readonly databaseFile: string | null
  readonly runner: 'auto' | 'docker' | 'process'
  readonly gpus: GpuSource
  /** The most workers at a time. */
  readonly maxWorkers: number
  /** Between two samples of the GPUs' meters. */
  readonly gpuSampleMs: number
  /** How long a task that cannot start lets later ones pass. */
  readonly maxPassMs: number
  /** Between two looks for what nobody needs any more. */
  readonly housekeepingMs: number
  /** From a task's end until contents go that are not to be kept. */
  readonly scrubAfterMs: number
  /** What is kept of ended tasks. */
  readonly retention: RetentionLimits
  /** What clients may give to tasks. */
  readonly uploads: UploadLimits
  /** `loopback`: programs on this machine need no key; `required`: everybody does. */
  readonly auth: 'loopback' | 'required'
  /** Origins (`https://host:port`) from which browsers may call. */
  readonly allowedOrigins: readonly string[]
  /** Names in a request's Host header that are served beside the loopback ones; lower case, without ports. */
  readonly allowedHosts: readonly string[]
  /** What a stop of the service does to running workers: `detach` leaves them for the next start. */
  readonly shutdown: 'detach' | 'stop'
  readonly logLevel: LogLevel
  /** The Docker engine's address; `null`: where it usually is. */
  readonly dockerHost: string | null
  /** Folders of the host that presets may mount from. */
  readonly volumeRoots: readonly string[]
  /** Folders of the host whose files presets may give to workers as secrets. */
  readonly secretRoots: readonly string[]
  /** What the names of the service's own variables begin with that presets may give to workers as secrets. */
  readonly secretEnvPrefix: string
}

export interface UploadLimits {
  /** Of one file; `null`: as much as the disk takes. */
  readonly maxBytes: number | null
  /** Of all files of an owner together that no task has; `null`: as much as the disk takes. */
  readonly maxUnusedBytes: number | null
  /** How long one waits for a task that has it, in milliseconds. */
  readonly keepMs: number
  /** Media types, such as `audio/wav`, and whole kinds, such as `audio/*`; lower case. */
  readonly types: readonly string[]
}

/** The database's file. */
export function databaseFileOf({ dataDir, databaseFile }: Pick<Config, 'dataDir' | 'databaseFile'>): string {
  return databaseFile ?? join(dataDir, 'gpu-service.db')
}

/** Where the files of artifacts and uploads are. */
export function artifactsFolderOf({ dataDir }: Pick<Config, 'dataDir'>): string {
  return join(dataDir, 'artifacts')
}

/** What is wrong with one variable. */
export interface ConfigProblem {
  readonly name: string
  /** As it was set; a value that may hold a secret is left out. */
  readonly value: string | null
  /** `the environment`, or a file with its line. */
  readonly source: string
  /** What was expected instead, or why it is refused. */
  readonly expected: string
}

export type ConfigResult =
  | { readonly status: 'read'; readonly config: Config }
  | { readonly status: 'invalid'; readonly problems: readonly ConfigProblem[] }

export type Environment = Readonly<Record<string, string | undefined>>

/** The file of settings that is read where there is one and CONFIG_FILE names no other. */
const DEFAULT_FILE = 'gpu-service.env'
const MAX_FILE_BYTES = 64 * 1024

/**
 * Reads all settings: from the environment and from one optional file of `KEY=value` lines, named by CONFIG_FILE or else
 * `gpu-service.env` in `cwd`. The environment wins; an empty value counts as absent. Relative paths are taken from `cwd`. The only
 * reader of the environment, but for the secrets of workers, which are read when a worker starts.
 */
export function readConfig(env: Environment, { cwd }: { readonly cwd: string }): ConfigResult {
  const problems: ConfigProblem[] = []
  const settings = collectSettings(env, cwd, problems)

  /** The value as `parse` understands it, else the default; `parse` gives `undefined` for what it does not understand. */
  function read<T>(
    name: SettingName,
    fallback: T,
    expected: string,
    parse: (text: string) => T | undefined,
  ): T {
    const setting = settings.get(name)
    if (setting === undefined) return fallback
    const parsed = parse(setting.value)
    if (parsed !== undefined) return parsed
    problems.push({ name, value: SECRET.has(name) ? null : setting.value, source: setting.source, expected })
    return fallback
  }
  const path = (text: string): string => resolve(cwd, text)
  const dataDir = read('DATA_DIR', path('data'), 'a folder', path)

  const config: Config = {
    host: read('HOST', '127.0.0.1', HOST_EXPECTED, (text) =>
      isLoopback(text) || isIP(text) !== 0 ? text : undefined,
    ),
    port: read('PORT', 4000, 'a port from 0 (any free one) to 65535', integer(0, 65_535)),
    dataDir,
    presetsFile: read('PRESETS_FILE', null, 'a file', path),
    modelsDir: read('MODELS_DIR', join(dataDir, 'models'), 'a folder', path),
    workersDir: read('WORKERS_DIR', null, 'a folder', path),
    databaseFile: read('DATABASE_URL', null, DATABASE_EXPECTED, (text) => parseDatabase(text, cwd)),
    runner: read('RUNNER', 'auto', ...oneOf('auto', 'docker', 'process')),
    gpus: read<GpuSource>('GPUS', 'auto', GPUS_EXPECTED, parseGpus),
    gpuSampleMs: read(
      'GPU_SAMPLE_SECONDS',
      5_000,
      'seconds from 0.1 to 300, such as 5 or 0.5',
      seconds(0.1, 300),
    ),
    maxWorkers: read('MAX_WORKERS', 32, 'a whole number from 1 to 1000', integer(1, 1_000)),
    maxPassMs: read(
      'MAX_PASS_SECONDS',
      30_000,
      'seconds from 0 to 86400, such as 30 or 0.5',
      seconds(0, 86_400),
    ),
    housekeepingMs: read(
      'HOUSEKEEPING_SECONDS',
      30_000,
      'seconds from 0.1 to 3600, such as 30 or 0.5',
      seconds(0.1, 3_600),
    ),
    scrubAfterMs: read(
      'PRIVACY_GRACE_SECONDS',
      60_000,
      'seconds from 0 to 86400, such as 60 or 0.5',
      seconds(0, 86_400),
    ),
    retention: {
      maxAgeMs: read<number | null>(
        'RETENTION_DAYS',
        30 * DAY_MS,
        `days, such as 30 or 0.5, or ${OFF}`,
        amount(DAY_MS),
      ),
      maxArtifactBytes: read<number | null>(
        'ARTIFACTS_MAX_GB',
        20 * GB,
        `gigabytes, such as 20 or 0.5, or ${OFF}`,
        amount(GB),
      ),
      maxDatabaseBytes: read<number | null>(
        'DATABASE_MAX_GB',
        10 * GB,
        `gigabytes, such as 10 or 0.5, or ${OFF}`,
        amount(GB),
      ),
      maxAuditAgeMs: read<number | null>('AUDIT_DAYS', null, `days, such as 365, or ${OFF}`, amount(DAY_MS)),
    },
    uploads: {
      maxBytes: read<number | null>(
        'UPLOAD_MAX_GB',
        4 * GB,
        `gigabytes, such as 4 or 0.5, or ${OFF}`,
        amount(GB),
      ),
      maxUnusedBytes: read<number | null>(
        'UPLOADS_UNUSED_MAX_GB',
        16 * GB,
        `gigabytes, such as 16 or 0.5, or ${OFF}`,
        amount(GB),
      ),
      keepMs: read('UPLOAD_HOURS', 24 * HOUR_MS, 'hours from 0.001 to 8760, such as 24 or 0.5', hours),
      types: read('UPLOAD_TYPES', UPLOAD_TYPES, TYPES_EXPECTED, list(parseTypes)),
    },
    allowedOrigins: read('ALLOWED_ORIGINS', [], ORIGINS_EXPECTED, list(parseOrigin)),
    allowedHosts: read('ALLOWED_HOSTS', [], HOSTS_EXPECTED, list(parseHostName)),
    shutdown: read('SHUTDOWN', 'detach', ...oneOf('detach', 'stop')),
    auth: read('AUTH', 'loopback', ...oneOf('loopback', 'required')),
    logLevel: read('LOG_LEVEL', 'info', ...oneOf(...LOG_LEVELS)),
    dockerHost: read('DOCKER_HOST', null, DOCKER_HOST_EXPECTED, parseDockerHost),
    volumeRoots: read('VOLUME_ROOTS', [], ROOTS_EXPECTED, list(parseRoot)),
    secretRoots: read('SECRET_ROOTS', [], ROOTS_EXPECTED, list(parseRoot)),
    secretEnvPrefix: read('SECRET_ENV_PREFIX', 'WORKER_SECRET_', PREFIX_EXPECTED, (text) =>
      /^[A-Za-z_][A-Za-z0-9_]{3,63}$/.test(text) ? text : undefined,
    ),
  }
  return problems.length > 0 ? { status: 'invalid', problems } : { status: 'read', config: freeze(config) }
}

/** All problems for a person, one per line. */
export function describeProblems(problems: readonly ConfigProblem[]): string {
  const lines = problems.map(({ name, value, source, expected }) => {
    const setting = value === null ? name : `${name}=${JSON.stringify(value)}`
    return `  ${setting} (${source}): expected ${expected}`
  })
  return ['The service cannot start with these settings:', ...lines].join('\n')
}

/** Whether only this machine can reach the address. */
export function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || (isIP(host) === 4 && host.startsWith('127.'))
}

const SETTING_NAMES = [
  'HOST',
  'PORT',
  'DATA_DIR',
  'PRESETS_FILE',
  'MODELS_DIR',
  'WORKERS_DIR',
  'DATABASE_URL',
  'RUNNER',
  'GPUS',
  'GPU_SAMPLE_SECONDS',
  'MAX_WORKERS',
  'MAX_PASS_SECONDS',
  'HOUSEKEEPING_SECONDS',
  'PRIVACY_GRACE_SECONDS',
  'RETENTION_DAYS',
  'ARTIFACTS_MAX_GB',
  'DATABASE_MAX_GB',
  'AUDIT_DAYS',
  'UPLOAD_MAX_GB',
  'UPLOADS_UNUSED_MAX_GB',
  'UPLOAD_HOURS',
  'UPLOAD_TYPES',
  'ALLOWED_ORIGINS',
  'ALLOWED_HOSTS',
  'SHUTDOWN',
  'AUTH',
  'LOG_LEVEL',
  'DOCKER_HOST',
  'VOLUME_ROOTS',
  'SECRET_ROOTS',
  'SECRET_ENV_PREFIX',
] as const
type SettingName = (typeof SETTING_NAMES)[number]
interface Setting {
  readonly value: string
  readonly source: string
}
/** Values that may hold a password. */
const SECRET = new Set<string>(['DATABASE_URL'])

const DAY_MS = 86_400_000
const HOUR_MS = 3_600_000
const GB = 1024 ** 3
const OFF = 'off for no limit'
/** What models are given. */
const UPLOAD_TYPES: readonly string[] = [
  ...['audio/*', 'image/*', 'video/*', 'text/*'],
  ...['application/json', 'application/x-ndjson', 'application/yaml', 'application/xml', 'application/pdf'],
  ...[
    'application/zip',
    'application/gzip',
    'application/x-tar',
    'application/zstd',
    'application/octet-stream',
  ],
  ...['application/vnd.apache.parquet', 'application/vnd.safetensors'],
]
const TYPES_EXPECTED = 'media types such as audio/wav, audio/* or */*, separated by commas'
const HOST_EXPECTED = 'an address to listen at, such as 127.0.0.1, ::1, localhost or 0.0.0.0'
const DATABASE_EXPECTED = 'file:path for SQLite; other databases are not there yet'
const GPUS_EXPECTED =
  'auto, none, or simulated:<count>x<memory MB>, such as simulated:2x24576 (at most 64 GPUs)'
const ORIGINS_EXPECTED =
  'origins such as https://console.example:8443, separated by commas, with neither path nor *'
const HOSTS_EXPECTED = 'host names or addresses without ports, separated by commas'
const ROOTS_EXPECTED = 'absolute folders, separated by commas'
// A short one would open variables that nobody meant for workers.
const PREFIX_EXPECTED =
  'the beginning of names of variables, such as WORKER_SECRET_: 4 to 64 letters, digits or underscores'
const DOCKER_HOST_EXPECTED = 'unix:///path/to/docker.sock, tcp://host:port, http://… or https://…'

function collectSettings(
  env: Environment,
  cwd: string,
  problems: ConfigProblem[],
): Map<SettingName, Setting> {
  const settings = new Map<SettingName, Setting>()
  for (const [name, setting] of readFile(env['CONFIG_FILE'], cwd, problems)) settings.set(name, setting)
  for (const name of SETTING_NAMES) {
    const value = env[name]?.trim()
    if (value !== undefined && value !== '') settings.set(name, { value, source: 'the environment' })
  }
  return settings
}

function readFile(
  named: string | undefined,
  cwd: string,
  problems: ConfigProblem[],
): Map<SettingName, Setting> {
  const settings = new Map<SettingName, Setting>()
  const wanted = named !== undefined && named !== ''
  const file = resolve(cwd, wanted ? named : DEFAULT_FILE)
  const stats = statSync(file, { throwIfNoEntry: false })
  if (stats === undefined && !wanted) return settings
  if (!stats?.isFile() || stats.size > MAX_FILE_BYTES) {
    const expected = `a file of at most ${MAX_FILE_BYTES} bytes with KEY=value lines`
    problems.push({ name: 'CONFIG_FILE', value: file, source: 'the environment', expected })
    return settings
  }
  for (const [index, line] of readFileSync(file, 'utf8').split(/\r?\n/).entries()) {
    if (/^\s*(#|$)/.test(line)) continue
    const source = `${file}:${index + 1}`
    const match = /^([A-Z_]+)\s*=(.*)$/.exec(line.trim())
    const name = SETTING_NAMES.find((known) => known === match?.[1])
    if (match === null || name === undefined) {
      const expected = `KEY=value with one of ${SETTING_NAMES.join(', ')}`
      problems.push({ name: match?.[1] ?? 'a line', value: null, source, expected })
      continue
    }
    const value = (match[2] ?? '').trim().replace(/^(["'])(.*)\1$/, '$2')
    if (value !== '') settings.set(name, { value, source })
  }
  return settings
}

function integer(from: number, to: number): (text: string) => number | undefined {
  return (text) => {
    const value = /^\d{1,9}$/.test(text) ? Number(text) : NaN
    return value >= from && value <= to ? value : undefined
  }
}

/** Seconds, fractions allowed, read as whole milliseconds. */
function seconds(from: number, to: number): (text: string) => number | undefined {
  return (text) => {
    const value = /^\d{1,9}(?:\.\d{1,3})?$/.test(text) ? Number(text) : NaN
    return value >= from && value <= to ? Math.round(value * 1_000) : undefined
  }
}

function hours(text: string): number | undefined {
  const value = /^\d{1,4}(?:\.\d{1,3})?$/.test(text) ? Number(text) : NaN
  return value >= 0.001 && value <= 8_760 ? Math.round(value * HOUR_MS) : undefined
}

/** An amount in that unit, fractions allowed; `off` and 0: none. */
function amount(unit: number): (text: string) => number | null | undefined {
  return (text) => {
    if (text === 'off') return null
    const value = /^\d{1,6}(?:\.\d{1,6})?$/.test(text) ? Number(text) : NaN
    return Number.isNaN(value) ? undefined : Math.round(value * unit) || null
  }
}

function oneOf<const T extends string>(...values: T[]): [string, (text: string) => T | undefined] {
  return [values.join(', ').replace(/, ([^,]*)$/, ' or $1'), (text) => values.find((value) => value === text)]
}

/** Reads a list whose every item must be understood. */
function list(parseItem: (item: string) => string | undefined) {
  return (text: string): readonly string[] | undefined => {
    const items = text
      .split(',')
      .map((item) => item.trim())
      .filter((item) => item !== '')
      .map(parseItem)
    return items.every((item) => item !== undefined) ? [...new Set(items)] : undefined
  }
}

function parseDatabase(text: string, cwd: string): string | undefined {
  const file = /^file:(.+)$/.exec(text)?.[1]
  return file === undefined ? undefined : resolve(cwd, file.replace(/^\/\/(?=\/)/, ''))
}

function parseGpus(text: string): Config['gpus'] | undefined {
  const setting = parseGpusSetting(text)
  return setting.status === 'parsed' ? setting.source : undefined
}

function parseOrigin(text: string): string | undefined {
  const url = urlOf(text)
  const isOrigin = /^https?:$/.test(url?.protocol ?? '') && url?.origin === text.toLowerCase()
  return isOrigin ? url.origin : undefined
}

function parseHostName(text: string): string | undefined {
  const name = text.toLowerCase()
  return /^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$/.test(name) || /^\[[0-9a-f:.]+\]$/.test(name) ? name : undefined
}

function parseDockerHost(text: string): string | undefined {
  if (/^unix:\/\/\/./.test(text)) return text
  const url = urlOf(text)
  return url !== null && /^(tcp|https?):$/.test(url.protocol) && url.host !== '' ? text : undefined
}

function parseTypes(text: string): string | undefined {
  const type = text.toLowerCase()
  return /^(\*\/\*|[a-z0-9][\w!#$&^.+-]*\/(\*|[a-z0-9][\w!#$&^.+-]*))$/.test(type) ? type : undefined
}

function parseRoot(text: string): string | undefined {
  return isAbsolute(text) ? resolve(text) : undefined
}

function urlOf(text: string): URL | null {
  return URL.canParse(text) ? new URL(text) : null
}

function freeze<T>(value: T): T {
  if (typeof value === 'object' && value !== null) {
    Object.values(value).forEach(freeze)
    Object.freeze(value)
  }
  return value
}
