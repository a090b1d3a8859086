import type { TextMap } from './json.ts'

/** Who did something, as the audit log keeps it. */
export interface Actor {
  /**
   * `local`, `key` and `token` as of a `Principal`; `unknown`: somebody who has shown none that is valid; `service`: nobody asked, the service
   * did it by its rules.
   */
  readonly kind: 'local' | 'key' | 'token' | 'unknown' | 'service'
  /** Of the key or the token; `null`: of neither. */
  readonly id: string | null
  /** For people. */
  readonly name: string
  /** From where; `null`: not over the network. */
  readonly address: string | null
}

/** Whatever nobody asked for. */
export const SERVICE: Actor = { kind: 'service', id: null, name: 'service', address: null }

/** What an entry is about. */
export interface AuditTarget {
  readonly kind: 'task' | 'worker' | 'gpu' | 'presets' | 'key' | 'upload' | 'audit'
  /** `null`: there is none, as of a task that was not taken. */
  readonly id: string | null
}

/** Something that was done, or was asked for and refused. Texts are kept up to 1,000 characters each; none holds an input or a secret. */
export interface NewAuditEntry {
  readonly actor: Actor
  /** `<what>.<done>`: `task.submit`, `gpu.drain`. */
  readonly action: string
  readonly target: AuditTarget
  /** `OK`, or the code of the problem or the failure. */
  readonly result: string
  /** The state that the target has from now on; `null`: the one that it had. Of a task that is removed: REMOVED. */
  readonly status: string | null
  /** For people. */
  readonly reason: string | null
  /** Ids and names that belong to it. */
  readonly details: TextMap
}

/** An entry of the log; `audit-chain.ts` says what its hash is made from. */
export interface AuditEntry extends NewAuditEntry {
  /** Counts from 1, over the life of the installation. */
  readonly seq: number
  /** When it was written. */
  readonly at: number
  /** The hash of the entry before it, lower-case hex; of the first one 64 zeros. */
  readonly previousHash: string
  /** Lower-case hex. */
  readonly hash: string
}

/** A place in the log that stands for all that comes before it too. */
export interface AuditHead {
  /** 0: before the first entry. */
  readonly seq: number
  readonly hash: string
}

export interface AuditFilter {
  readonly after?: number
  readonly before?: number
  readonly actorKind?: string
  readonly actorId?: string
  readonly actorName?: string
  readonly action?: string
  readonly targetKind?: string
  readonly targetId?: string
  readonly result?: string
}

export interface AuditPage {
  /** Newest first. */
  readonly entries: readonly AuditEntry[]
  readonly hasNextPage: boolean
}

/** The first thing that is wrong with the log. */
export interface AuditFault {
  /** The entry that shows it; one that is missing included. */
  readonly seq: number
  /** For people. */
  readonly message: string
}

/** What a look through the log, or a part of it, has found. */
export interface AuditVerification {
  /** How many entries were looked at. */
  readonly entries: number
  /** The last entry that was looked at, or the place before the first one where none was. */
  readonly head: AuditHead
  /** The entries up to here were removed because they were kept long enough. */
  readonly anchor: AuditHead
  /** `null`: nothing is wrong. */
  readonly fault: AuditFault | null
}

export interface AuditStretch {
  /** Only the entries behind this one, whose own hash is taken as it stands; 0: from the first one on. */
  readonly after: number
  /** At most so many entries; `null`: all. */
  readonly first: number | null
  /** A head that was kept elsewhere: its entry must be there as it was. */
  readonly kept: AuditHead | null
}

/**
 * The audit log: what was done, by whom, in an order that nobody can change unnoticed. What the store does of itself it records in the
 * transaction that does it.
 */
export interface AuditLog {
  /** Adds entries for what is not stored here: what was refused, and what happens outside the database. */
  recordAudit(entries: readonly NewAuditEntry[]): Promise<void>
  /** Newest first. `before`: only older ones than the entry with this seq; `null`: from the newest on. */
  auditLog(query: {
    readonly filter: AuditFilter
    readonly first: number
    readonly before: number | null
  }): Promise<AuditPage>
  /** Looks through the log in stretches that hold up nobody. Ends early, with what it has found so far, when `signal` fires. */
  verifyAudit(stretch: AuditStretch, signal?: AbortSignal): Promise<AuditVerification>
  /**
   * Removes a stretch of the entries that were written before then, oldest first, and leaves their last one as the anchor of the rest. The
   * removal is an entry itself. Whether none is left to remove.
   */
  removeAudit(before: number): Promise<boolean>
}
