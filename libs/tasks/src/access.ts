import type { PresetId, TaskId } from './ids.ts'

/** What somebody may do, each with all that stands before it: see; have tasks done; run the service; say who may do what. */
export const ROLES = ['read', 'submit', 'operate', 'admin'] as const
export type Role = (typeof ROLES)[number]

/** Who asks for something. */
export interface Principal {
  /** `local`: a program on this machine, without a key; `key`: the holder of an API key; `token`: a page that was given a browser token. */
  readonly kind: 'local' | 'key' | 'token'
  /** Of the key or the token; `null`: of neither. */
  readonly id: string | null
  /** For people. */
  readonly name: string
  /** Owns the tasks that it submits; sees no others, unless its role is `operate` or more. */
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
  name: 'local',
  owner: 'local',
  role: 'admin',
  presets: null,
  taskId: null,
}

/** Whether a role is as much as another one. */
export function isAtLeast(role: Role, needed: Role): boolean {
  return ROLES.indexOf(role) >= ROLES.indexOf(needed)
}
