import { mkdir } from 'node:fs/promises'
import { request } from 'node:http'
import { dirname, join } from 'node:path'
import { parseArgs } from 'node:util'
import { openTaskStore } from '@gpu-service/task-store'
import {
  actorOf,
  LIMIT_NAMES,
  LOCAL,
  ROLES,
  type ApiKey,
  type KeyLimits,
  type LimitName,
  type PresetId,
  type Role,
} from '@gpu-service/tasks'
import { openKeyRing } from './access/key-ring.ts'
import { problemOfLimits, problemOfNewKey } from './access/new-key.ts'
import { databaseFileOf, describeProblems, readConfig, type Environment } from './config.ts'
import { createLogger } from './log.ts'
import { LOCAL_SOCKET } from './start.ts'
import { systemClock } from './system-clock.ts'

const USAGE = `Usage:
  npm run keys -- create --name <name> --role read|submit|operate|admin [--owner <account>] [--presets a/b,c/d] [--expires 90d] [--limits <limits>]
  npm run keys -- list
  npm run keys -- limit <id> <limits>
  npm run keys -- revoke <id>

Limits: ${LIMIT_NAMES.map((name) => `${name}=<number or none>`).join(',')}; any of them.
It works on the service of this DATA_DIR, whether it runs or not. What is created is printed once.
`
const AT_THE_MACHINE = actorOf(LOCAL, null)
const DAY_MS = 86_400_000
const MAX_ANSWER_BYTES = 16 * 1024 * 1024

/** A key as both ways tell it: times in milliseconds, roles in lower case. */
type Listed = Pick<
  ApiKey,
  'id' | 'name' | 'owner' | 'role' | 'presets' | 'expiresAt' | 'revokedAt' | 'lastUsedAt'
>

type Limits = Partial<KeyLimits>

interface Asked {
  readonly name: string
  readonly owner: string
  readonly role: Role
  readonly presets: readonly PresetId[] | null
  readonly limits: Limits
  readonly expiresAt: number | null
}

/** Who makes and ends keys: the service that runs, or, where none does, its database. */
interface Keeper extends AsyncDisposable {
  create(key: Asked): Promise<string>
  list(): Promise<readonly Listed[]>
  limit(id: string, limits: Limits): Promise<boolean>
  revoke(id: string): Promise<boolean>
}

/** The command `keys`: makes, lists and ends API keys from a terminal on the service's machine. Gives the exit code. */
export async function keysCommand(args: readonly string[], env: Environment): Promise<number> {
  const asked = parse(args)
  if (asked === null) {
    process.stderr.write(USAGE)
    return 64 // EX_USAGE of sysexits.h
  }
  if ('problem' in asked) {
    process.stderr.write(`${asked.problem}\n`)
    return 64
  }
  const read = readConfig(env, { cwd: process.cwd() })
  if (read.status === 'invalid') {
    process.stderr.write(`${describeProblems(read.problems)}\n`)
    return 78
  }
  const { dataDir } = read.config
  await using keeper =
    (await runningService(join(dataDir, LOCAL_SOCKET))) ?? (await stoppedService(databaseFileOf(read.config)))
  switch (asked.command) {
    case 'create':
      process.stdout.write(`${await keeper.create(asked.key)}\n`)
      process.stderr.write('This is the key. It is shown this once and kept nowhere.\n')
      return 0
    case 'list':
      for (const key of await keeper.list()) process.stdout.write(`${lineOf(key)}\n`)
      return 0
    case 'limit':
    case 'revoke':
      if (await (asked.command === 'limit' ? keeper.limit(asked.id, asked.limits) : keeper.revoke(asked.id)))
        return 0
      process.stderr.write(`There is no API key ${asked.id}.\n`)
      return 1
  }
}

type Parsed =
  | { readonly command: 'create'; readonly key: Asked }
  | { readonly command: 'list' }
  | { readonly command: 'limit'; readonly id: string; readonly limits: Limits }
  | { readonly command: 'revoke'; readonly id: string }
  | { readonly problem: string }

function parse(args: readonly string[]): Parsed | null {
  const option = { type: 'string' } as const
  let parsed
  try {
    const of = { name: option, role: option, owner: option }
    const options = { ...of, presets: option, expires: option, limits: option }
    parsed = parseArgs({ args: [...args], options, allowPositionals: true })
  } catch (error) {
    return { problem: error instanceof Error ? error.message : String(error) }
  }
  const { values, positionals } = parsed
  const [command, id, given, ...more] = positionals
  if (command === 'limit' && id !== undefined && given !== undefined && more.length === 0) {
    const limits = parseLimits(given)
    return typeof limits === 'string' ? { problem: limits } : { command, id, limits }
  }
  if (given !== undefined) return null
  if (command === 'list' && id === undefined) return { command }
  if (command === 'revoke' && id !== undefined) return { command, id }
  if (command !== 'create' || id !== undefined) return null
  const role = ROLES.find((each) => each === values.role)
  if (role === undefined) return { problem: `--role must be one of ${ROLES.join(', ')}.` }
  const expiresAt = values.expires === undefined ? null : momentOf(values.expires)
  if (expiresAt !== null && Number.isNaN(expiresAt))
    return { problem: '--expires must be days, such as 90d, or a moment, such as 2027-01-31T00:00:00Z.' }
  const limits = parseLimits(values.limits ?? '')
  if (typeof limits === 'string') return { problem: limits }
  const presets = (values.presets?.split(',') ?? null) as readonly PresetId[] | null
  const key = { name: values.name ?? '', owner: values.owner ?? 'local', role, presets, limits, expiresAt }
  const problem = problemOfNewKey(key, Date.now())
  return problem === null ? { command, key } : { problem }
}

/** A text says what is wrong. */
function parseLimits(text: string): Limits | string {
  const limits: { [N in LimitName]?: number | null } = {}
  for (const item of text.split(',').filter((each) => each !== '')) {
    const [word, amount = ''] = item.split('=', 2)
    const name = LIMIT_NAMES.find((each) => each === word)
    if (name === undefined || !/^(\d{1,10}|none)$/.test(amount))
      return `${item} is not a limit: <name>=<number or none>, with one of ${LIMIT_NAMES.join(', ')}.`
    limits[name] = amount === 'none' ? null : Number(amount)
  }
  return problemOfLimits(limits) ?? limits
}

function momentOf(text: string): number {
  const days = /^(\d{1,5})d$/.exec(text)?.[1]
  return days === undefined ? Date.parse(text) : Date.now() + Number(days) * DAY_MS
}

function lineOf({ id, role, owner, name, presets, expiresAt, revokedAt, lastUsedAt }: Listed): string {
  const day = (at: number): string => new Date(at).toISOString().slice(0, 16)
  const state =
    revokedAt !== null
      ? `revoked ${day(revokedAt)}`
      : expiresAt === null
        ? 'does not expire'
        : `${expiresAt <= Date.now() ? 'expired' : 'expires'} ${day(expiresAt)}`
  const used = lastUsedAt === null ? 'never used' : `last used ${day(lastUsedAt)}`
  return [
    id,
    role.padEnd(7),
    owner,
    JSON.stringify(name),
    presets?.join(',') ?? 'all presets',
    state,
    used,
  ].join('  ')
}

// ------------------------------------------------------------------------------------------------------- while the service runs

interface Answer {
  readonly data?: Readonly<Record<string, unknown>> | null
  readonly errors?: readonly { readonly message: string }[]
}

/** `null`: no service listens there. */
async function runningService(socketPath: string): Promise<Keeper | null> {
  const ask = async (query: string, variables: object = {}): Promise<NonNullable<Answer['data']>> => {
    const { data, errors } = JSON.parse(
      await post(socketPath, JSON.stringify({ query, variables })),
    ) as Answer
    if (errors !== undefined || data == null)
      throw new Error(errors?.[0]?.message ?? 'The service gave no answer.')
    return data
  }
  try {
    await ask('{ viewer { role } }')
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? error.code : null
    if (code === 'ENOENT' || code === 'ECONNREFUSED' || code === 'EINVAL') return null
    throw error
  }
  return {
    async create({ role, expiresAt, ...key }) {
      const input = {
        ...key,
        role: role.toUpperCase(),
        expiresAt: expiresAt === null ? null : new Date(expiresAt).toISOString(),
      }
      const { createApiKey } = await ask(
        'mutation ($input: CreateApiKeyInput!) { createApiKey(input: $input) { text } }',
        { input },
      )
      return (createApiKey as { readonly text: string }).text
    },
    async list() {
      const { apiKeys } = await ask(
        '{ apiKeys { id name owner role presets expiresAt revokedAt lastUsedAt } }',
      )
      const time = (text: unknown): number | null => (typeof text === 'string' ? Date.parse(text) : null)
      return (apiKeys as readonly Listed[]).map((key) => ({
        ...key,
        role: key.role.toLowerCase() as Role,
        ...{
          expiresAt: time(key.expiresAt),
          revokedAt: time(key.revokedAt),
          lastUsedAt: time(key.lastUsedAt),
        },
      }))
    },
    async limit(id, limits) {
      const { setApiKeyLimits } = await ask(
        'mutation ($id: ID!, $limits: ApiKeyLimitsInput!) { setApiKeyLimits(id: $id, limits: $limits) { ... on SetApiKeyLimitsSuccess { key { id } } } }',
        { id, limits },
      )
      return 'key' in (setApiKeyLimits as object)
    },
    async revoke(id) {
      const { revokeApiKey } = await ask(
        'mutation ($id: ID!) { revokeApiKey(id: $id) { ... on RevokeApiKeySuccess { key { id } } } }',
        { id },
      )
      return 'key' in (revokeApiKey as object)
    },
    [Symbol.asyncDispose]: () => Promise.resolve(),
  }
}

function post(socketPath: string, body: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const headers = { host: 'localhost', 'content-type': 'application/json' }
    const asked = request({ socketPath, path: '/graphql', method: 'POST', headers }, (answer) => {
      let text = ''
      answer.setEncoding('utf8')
      answer.on('data', (part: string) => {
        text += part
        if (text.length > MAX_ANSWER_BYTES) asked.destroy(new Error('The answer is too long.'))
      })
      answer.on('end', () => {
        resolve(text)
      })
    })
    asked.on('error', reject)
    asked.end(body)
  })
}

// ------------------------------------------------------------------------------------------------------------ while it does not

/** Works on the database itself, which no service may have open meanwhile. */
async function stoppedService(file: string): Promise<Keeper> {
  await mkdir(dirname(file), { recursive: true, mode: 0o700 })
  const logger = createLogger({ level: 'error' })
  const store = await openTaskStore({ url: `file:${file}`, logger })
  const keys = await openKeyRing(store, systemClock, logger)
  return {
    create: async (key) => (await keys.create(key, AT_THE_MACHINE)).text,
    list: () => Promise.resolve(keys.list()),
    limit: async (id, limits) => (await keys.setLimits(id, limits, AT_THE_MACHINE)) !== null,
    revoke: async (id) => (await keys.revoke(id, AT_THE_MACHINE)) !== null,
    async [Symbol.asyncDispose]() {
      await keys[Symbol.asyncDispose]()
      await store[Symbol.asyncDispose]()
    },
  }
}
