import type { Actor, AuditLog, AuditTarget, Logger, NewAuditEntry } from '@gpu-service/tasks'

/** Refusals that are alike are told once in so long, and then how many more there were. */
const PERIOD_MS = 60_000
/** Kinds of refusals that are told in one period of each kind of actor, so that none drowns the others; the rest is told by its action. */
const MAX_KINDS = 50

/** What somebody was not let do. */
export interface Refusal {
  readonly actor: Actor
  readonly action: string
  readonly target: AuditTarget['kind']
  /** The code that the client got. */
  readonly result: 'UNAUTHENTICATED' | 'FORBIDDEN'
}

/** Tells the audit log of what was refused before anything of it ran. */
export interface RefusalLog extends AsyncDisposable {
  /** Nobody waits for the entry, nor fails where it cannot be stored: nothing was done. */
  note(refusal: Refusal): void
}

interface Kind {
  readonly refusal: Refusal
  /** Those that were not told. */
  more: number
}

/** However many refusals there are, and wherever they come from, they are some hundred entries a minute. */
export function createRefusalLog(log: Pick<AuditLog, 'recordAudit'>, logger: Logger): RefusalLog {
  let kinds = new Map<string, Kind>()
  /** How many of them are of each kind of actor. */
  let numbers = new Map<Actor['kind'], number>()
  let writing = Promise.resolve()

  function write(entries: readonly NewAuditEntry[]): void {
    if (entries.length === 0) return
    writing = writing
      .then(() => log.recordAudit(entries))
      .catch((error: unknown) => {
        logger.warn({ err: error, refusals: entries.length }, 'Refusals could not be told to the audit log.')
      })
  }

  function tellMore(): void {
    const told = [...kinds.values()]
    kinds = new Map()
    numbers = new Map()
    write(told.filter(({ more }) => more > 0).map(({ refusal, more }) => entryOf(refusal, more)))
  }

  const timer = setInterval(tellMore, PERIOD_MS)
  timer.unref()

  return {
    note(refusal) {
      const key = keyOf(refusal)
      const known = kinds.get(key)
      const { kind } = refusal.actor
      const number = numbers.get(kind) ?? 0
      if (known !== undefined) known.more++
      else if (number < MAX_KINDS) {
        numbers.set(kind, number + 1)
        kinds.set(key, { refusal, more: 0 })
        write([entryOf(refusal, 1)])
      } else {
        const rest = { ...refusal, actor: { ...SEVERAL, kind } }
        const others = kinds.get(keyOf(rest)) ?? { refusal: rest, more: 0 }
        others.more++
        kinds.set(keyOf(rest), others)
      }
    },
    async [Symbol.asyncDispose]() {
      clearInterval(timer)
      tellMore()
      await writing
    },
  }
}

/** Who has shown no key that is one. */
export function unknownActor(address: string | null): Actor {
  return { ...SEVERAL, name: 'unknown', address }
}

const SEVERAL: Actor = { kind: 'unknown', id: null, name: 'several', address: null }

function keyOf({ actor, action, target, result }: Refusal): string {
  return JSON.stringify([actor.kind, actor.id, actor.name, actor.address, action, target, result])
}

function entryOf({ actor, action, target, result }: Refusal, times: number): NewAuditEntry {
  return {
    ...{ actor, action, target: { kind: target, id: null }, result, status: null, reason: null },
    details: { times: String(times) },
  }
}
