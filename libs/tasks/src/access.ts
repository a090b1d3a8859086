import type { Actor } from './audit.ts'
import type { PresetId, TaskId } from './ids.ts'
import type { Task } from './task.ts'

/** What somebody may do, each with all that stands before it: see; have tasks done; run the service; say who may do what. */
export const ROLES = ['read', 'submit', 'operate', 'admin'] as const
export type Role = (typeof ROLES)[number]

/** Whether a role is as much as another one. */
export function isAtLeast(role: Role, needed: Role): boolean {
  return ROLES.indexOf(role) >= ROLES.indexOf(needed)
}

/** Who asks for something. */
export interface Principal {
  /** `local`: a program on this machine, without a key; `key`: the holder of an API key; `token`: a page that was given a browser token. */
  readonly kind: 'local' | 'key' | 'token'
  /** Of the key or the token; `null`: of neither. */
  readonly id: string | null
  /** The API key that it is of, or was made with: what it uses counts against that one's limits; `null`: none. */
  readonly keyId: string | null
  /** For people. */
  readonly name: string
  /**
   * Owns the tasks that it submits. Of a key it is an account, such as `acme`; of a token made for somebody, `acme/somebody`. An account has what is
   * below it too.
   */
  readonly owner: string
  readonly role: Role
  /** The presets that it may use, and whose tasks it may see; `null`: all. */
  readonly presets: readonly PresetId[] | null
  /** The one task that it may see; `null`: any that the rest allows. */
  readonly taskId: TaskId | null
}

/** A program on this machine, which can do to the service what it likes anyway. */
export const LOCAL: Principal = {
  kind: 'local',
  id: null,
  keyId: null,
  name: 'local',
  owner: 'local',
  role: 'admin',
  presets: null,
  taskId: null,
}

/** The account that an owner is of, or below. */
export function accountOf(owner: string): string {
  return owner.split('/', 1)[0] ?? ''
}

/** A principal as the audit log keeps it; `address`: from where it asks. */
export function actorOf({ kind, id, name }: Principal, address: string | null): Actor {
  return { kind, id, name, address }
}

/** Whether it may see the task, and do with it what its role allows. */
export function maySee(principal: Principal, task: Pick<Task, 'id' | 'owner' | 'presetId'>): boolean {
  const { owner, role, taskId } = principal
  if (taskId !== null && task.id !== taskId) return false
  if (!mayUse(principal, task.presetId)) return false
  return isAtLeast(role, 'operate') || isOf(task.owner, owner)
}

/** Whether what belongs to `owner` is of `account` too: an account has what is below it. */
export function isOf(owner: string, account: string): boolean {
  return owner === account || owner.startsWith(`${account}/`)
}

/** Whether there is such a preset, as far as it is told. */
export function mayUse({ presets }: Principal, presetId: string): boolean {
  return presets === null || presets.includes(presetId as PresetId)
}

/** How much may be had with one API key, and the tokens made with it; `null`: as much as there is. */
export interface KeyLimits {
  /** Requests, and operations over WebSockets, of any kind. */
  readonly requestsPerMinute: number | null
  /** Tasks. */
  readonly submitsPerMinute: number | null
  /** QUEUED tasks at a time. */
  readonly queuedTasks: number | null
  /** Tasks that have a worker at a time; more wait. */
  readonly runningTasks: number | null
  /** From one midnight in UTC to the next: the time of its tasks on their workers, times their GPUs. */
  readonly gpuSecondsPerDay: number | null
  /** WebSockets at a time. */
  readonly sockets: number | null
  /** Subscriptions at a time, over WebSockets and event streams together. */
  readonly subscriptions: number | null
}

export type LimitName = keyof KeyLimits
/** Those that the dispatcher keeps to. */
export type TaskLimits = Pick<KeyLimits, 'queuedTasks' | 'runningTasks' | 'gpuSecondsPerDay'>

/** Of a key that has not been given others: a frontend with many users goes through, a program that has run wild does not. */
export const DEFAULT_KEY_LIMITS: KeyLimits = {
  requestsPerMinute: 6_000,
  submitsPerMinute: 600,
  queuedTasks: 1_000,
  runningTasks: null,
  gpuSecondsPerDay: null,
  sockets: 500,
  subscriptions: 5_000,
}

export const LIMIT_NAMES = Object.keys(DEFAULT_KEY_LIMITS) as readonly LimitName[]

/** What is known of an API key. Its text is known to its holder alone. */
export interface ApiKey {
  /** Part of the key's text. */
  readonly id: string
  readonly name: string
  /** The account whose tasks it may see, and to which those that it submits belong. */
  readonly owner: string
  readonly role: Role
  readonly presets: readonly PresetId[] | null
  /** Those that differ from the default. */
  readonly limits: Partial<KeyLimits>
  /** Milliseconds since 1970, as all times here. */
  readonly createdAt: number
  /** Who made it, for people. */
  readonly createdBy: string
  /** `null`: it does not expire. */
  readonly expiresAt: number | null
  readonly revokedAt: number | null
  readonly lastUsedAt: number | null
  /** The address that it was last used from. */
  readonly lastUsedFrom: string | null
}

export interface StoredKey extends ApiKey {
  /** SHA-256 of the key's secret, lower-case hex. */
  readonly hash: string
}

/** Where keys are kept. */
export interface KeyStore {
  /** All of them, also those that are of no use any more, oldest first. */
  keys(): Promise<readonly StoredKey[]>
  addKey(key: StoredKey, by: Actor): Promise<void>
  /** One that was revoked before stays as it is. */
  revokeKey(id: string, at: number, by: Actor): Promise<void>
  /** Another value for each of these; the others stay. */
  setKeyLimits(id: string, limits: Partial<KeyLimits>, by: Actor): Promise<void>
  noteKeyUses(uses: readonly Pick<ApiKey, 'id' | 'lastUsedAt' | 'lastUsedFrom'>[]): Promise<void>
  /** 32 bytes that only this installation knows, made the first time. */
  secret(): Promise<Buffer>
}
