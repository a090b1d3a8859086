import { hash as hashOf } from 'node:crypto'
import type { AuditEntry, AuditFault, AuditHead, AuditVerification } from './audit.ts'
import type { TextMap } from './json.ts'

/** Before the first entry. */
export const AUDIT_START: AuditHead = { seq: 0, hash: '0'.repeat(64) }

/** Reads `<seq>:<hash>`; `null`: the text is not of this form. */
export function parseAuditHead(text: string): AuditHead | null {
  const [, seq, hash] = /^(\d{1,15}):([0-9a-f]{64})$/.exec(text) ?? []
  return seq === undefined || hash === undefined ? null : { seq: Number(seq), hash }
}

/** The action of the entry that tells of a removal at the front; its details are the anchor that the removal left: `seq` and `hash`. */
export const AUDIT_REMOVED = 'audit.remove'

/**
 * The hash of an entry: SHA-256, in lower-case hex, over the UTF-8 bytes of the previous entry's hash (64 characters; zeros for the first
 * entry), a line feed, and the entry's canonical text. That is the JSON of
 *
 *     [seq, at, actor.kind, actor.id, actor.name, actor.address, action, target.kind, target.id, result, status, reason, details]
 *
 * in the form of RFC 8785: no white space, keys of `details` sorted, in texts nothing escaped but `"`, `\` and the control characters. `at` is
 * in milliseconds since 1970, `details` an object of texts; what is absent is null.
 */
export function auditHash(entry: Omit<AuditEntry, 'hash'>): string {
  const { seq, at, actor, action, target, result, status, reason, details, previousHash } = entry
  const fields = JSON.stringify([
    ...[seq, at, actor.kind, actor.id, actor.name, actor.address],
    ...[action, target.kind, target.id, result, status, reason],
  ])
  // Put together from texts: every change of a task's state waits for this.
  return hashOf('sha256', `${previousHash}\n${fields.slice(0, -1)},${auditDetails(details)}]`)
}

/** As they are hashed, and stored. */
export function auditDetails(details: TextMap): string {
  return JSON.stringify(details, Object.keys(details).sort())
}

/** Follows the chain of a log, entry by entry. */
export interface AuditCheck {
  /** Takes the next entries, in order. Whether the chain still holds; where it does not, the rest tells nothing more. */
  next(entries: readonly AuditEntry[]): boolean
  /** Where the next entry must follow. */
  readonly head: AuditHead
  /** What was found. `anchor`: of the log as it is now; `isEnd`: there are no more entries. */
  end(anchor: AuditHead, isEnd: boolean): AuditVerification
}

/**
 * `from`: the place before the first entry that comes; `isFront`: it is the front of the log. `kept`: a head that was kept elsewhere, whose
 * entry must be as it was, where it lies behind `from`.
 */
export function checkAudit(from: AuditHead, isFront: boolean, kept: AuditHead | null): AuditCheck {
  let head = from
  let entries = 0
  let fault: AuditFault | null = kept === null ? null : faultOfKept(kept, from)
  /** As the last removal that is told of left it. */
  let told: AuditHead = AUDIT_START

  function faultOf(entry: AuditEntry): AuditFault | null {
    const { seq } = entry
    const expected = head.seq + 1
    if (seq > expected)
      return {
        seq: expected,
        message: `${naming(expected, seq - 1)} missing: entry ${seq} comes after ${head.seq}.`,
      }
    if (seq < expected) return { seq, message: `Entry ${seq} comes after entry ${head.seq}.` }
    if (auditHash({ ...entry, previousHash: head.hash }) !== entry.hash)
      return {
        seq,
        message: `Entry ${seq} is not as it was written, or does not follow the entry before it: its hash does not fit.`,
      }
    if (kept?.seq === seq && kept.hash !== entry.hash)
      return { seq, message: `Entry ${seq} has another hash than the head that was kept.` }
    return null
  }

  /** What only the end of the log shows. */
  function faultOfEnd(anchor: AuditHead): AuditFault | null {
    if (isFront && (told.seq !== anchor.seq || told.hash !== anchor.hash))
      return {
        seq: anchor.seq,
        message:
          told.seq === 0
            ? `The log begins after entry ${anchor.seq}, and no entry tells of a removal.`
            : `The log begins after entry ${anchor.seq}, but the last removal that is told of went up to entry ${told.seq} with the hash ${told.hash}.`,
      }
    if (kept !== null && kept.seq > head.seq)
      return {
        seq: head.seq + 1,
        message: `The end is missing: the log ends with entry ${head.seq}, and entry ${kept.seq} was there when its head was kept.`,
      }
    return null
  }

  return {
    get head() {
      return head
    },
    next(more) {
      for (const entry of more) {
        fault ??= faultOf(entry)
        if (fault !== null) return false
        const { seq, hash, action, details } = entry
        head = { seq, hash }
        entries++
        if (action === AUDIT_REMOVED) told = { seq: Number(details['seq']), hash: details['hash'] ?? '' }
      }
      return true
    },
    end: (anchor, isEnd) => ({ entries, head, anchor, fault: fault ?? (isEnd ? faultOfEnd(anchor) : null) }),
  }
}

function faultOfKept(kept: AuditHead, from: AuditHead): AuditFault | null {
  if (kept.seq === from.seq && kept.hash !== from.hash)
    return { seq: kept.seq, message: `Entry ${kept.seq} has another hash than the head that was kept.` }
  return null
}

function naming(from: number, to: number): string {
  return from === to ? `Entry ${from} is` : `Entries ${from} to ${to} are`
}
