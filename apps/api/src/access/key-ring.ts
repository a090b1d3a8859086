import { timingSafeEqual } from 'node:crypto'
import {
  type Actor,
  type ApiKey,
  type Clock,
  DEFAULT_KEY_LIMITS,
  type KeyLimits,
  type KeyStore,
  type Logger,
  type PresetId,
  type Principal,
  type Role,
  type StoredKey,
} from '@gpu-service/tasks'
import { principalOfToken, readToken, signToken, type TokenClaims } from './browser-token.ts'
import { hashOf, newKeyText, parseKeyText } from './key-text.ts'

/** How often it is looked whether something has expired that streams are open with, in milliseconds. */
const LOOK_MS = 1_000
/** How often the last uses of keys are written down. */
const NOTE_USES_MS = 30_000

export interface NewKey {
  readonly name: string
  readonly owner: string
  readonly role: Role
  readonly presets: readonly PresetId[] | null
  readonly limits: Partial<KeyLimits>
  readonly expiresAt: number | null
}

/** Someone who has shown who he is. */
export interface Bearer {
  readonly principal: Principal
  /** Begins something that lasts; `ended` fires as soon as the key is revoked or has expired, and not after the disposal. */
  readonly hold: () => Hold
}

export interface Hold extends Disposable {
  readonly ended: AbortSignal
}

/** The keys and tokens of the installation. */
export interface KeyRing extends AsyncDisposable {
  /** All keys, oldest first. */
  list(): readonly ApiKey[]
  /** Whether there is a key that is of use, with the role or more where one is given. */
  hasUsable(role?: Role): boolean
  /** `text` is shown to whoever asked for it, and kept nowhere. */
  create(request: NewKey, by: Actor): Promise<{ readonly key: ApiKey; readonly text: string }>
  /** Ends the key, and what is open with it. `null`: there is none. */
  revoke(id: string, by: Actor): Promise<ApiKey | null>
  /** Gives the key other limits, from now on. `null`: there is none. */
  setLimits(id: string, limits: Partial<KeyLimits>, by: Actor): Promise<ApiKey | null>
  /** In force for the key; the default for one that is not there. */
  readonly limitsOf: (id: string) => KeyLimits
  /** A browser token. */
  sign(claims: TokenClaims): string
  /** Whose key or token it is; `null`: of nobody, or of nobody any more. */
  find(text: string, address: string | null): Bearer | null
}

interface Held {
  readonly keyId: string | null
  readonly expiresAt: number | null
  readonly end: () => void
}

const NO_HASH = hashOf('')

/** Reads the keys once; from then on all changes of them go through the ring. */
export async function openKeyRing(store: KeyStore, clock: Clock, logger: Logger): Promise<KeyRing> {
  const keys = new Map((await store.keys()).map((key) => [key.id, key]))
  const secret = await store.secret()
  const held = new Set<Held>()
  const used = new Set<string>()

  function isUsable(key: Pick<ApiKey, 'revokedAt' | 'expiresAt'> | undefined): boolean {
    return (
      key !== undefined && key.revokedAt === null && (key.expiresAt === null || key.expiresAt > clock.now())
    )
  }

  function hold(keyId: string | null, expiresAt: number | null): Hold {
    const ended = new AbortController()
    const entry: Held = {
      keyId,
      expiresAt,
      end: () => {
        held.delete(entry)
        ended.abort()
      },
    }
    held.add(entry)
    return {
      ended: ended.signal,
      [Symbol.dispose]: () => {
        held.delete(entry)
      },
    }
  }

  function endHeld(isOver: (entry: Held) => boolean): void {
    for (const entry of held) if (isOver(entry)) entry.end()
  }

  function findKey(text: string, address: string | null): Bearer | null {
    const parsed = parseKeyText(text)
    if (parsed === null) return null
    const key = keys.get(parsed.id)
    // Equally long for a key that is not there: a digest against a digest.
    const isRight = timingSafeEqual(Buffer.from(hashOf(parsed.secret)), Buffer.from(key?.hash ?? NO_HASH))
    if (key === undefined || !isRight || !isUsable(key)) return null
    keys.set(key.id, { ...key, lastUsedAt: clock.now(), lastUsedFrom: address })
    used.add(key.id)
    const { id, name, owner, role, presets, expiresAt } = key
    return {
      principal: { kind: 'key', id, keyId: id, name, owner, role, presets, taskId: null },
      hold: () => hold(id, expiresAt),
    }
  }

  function findToken(text: string): Bearer | null {
    const claims = readToken(text, secret)
    if (claims === null || claims.expiresAt <= clock.now()) return null
    const { keyId, expiresAt } = claims
    if (keyId !== null && !isUsable(keys.get(keyId))) return null
    return { principal: principalOfToken(claims), hold: () => hold(keyId, expiresAt) }
  }

  async function noteUses(): Promise<void> {
    const uses = [...used].flatMap((id) => keys.get(id) ?? [])
    used.clear()
    if (uses.length === 0) return
    await store.noteKeyUses(uses).catch((error: unknown) => {
      logger.warn({ err: error }, 'The last uses of API keys could not be stored.')
    })
  }

  const timers = [
    setInterval(() => {
      const now = clock.now()
      endHeld(({ expiresAt }) => expiresAt !== null && expiresAt <= now)
    }, LOOK_MS),
    setInterval(() => void noteUses(), NOTE_USES_MS),
  ]
  for (const timer of timers) timer.unref()

  return {
    list: () => [...keys.values()].map(withoutHash),
    hasUsable: (role) =>
      [...keys.values()].some((key) => isUsable(key) && (role === undefined || key.role === role)),

    async create(request, by) {
      const { id, secret: own, text } = newKeyText()
      const key: StoredKey = {
        ...request,
        ...{ id, hash: hashOf(own), createdAt: clock.now(), createdBy: by.name },
        ...{ revokedAt: null, lastUsedAt: null, lastUsedFrom: null },
      }
      await store.addKey(key, by)
      keys.set(id, key)
      return { key: withoutHash(key), text }
    },

    async revoke(id, by) {
      const key = keys.get(id)
      if (key === undefined) return null
      const revoked = { ...key, revokedAt: key.revokedAt ?? clock.now() }
      await store.revokeKey(id, revoked.revokedAt, by)
      keys.set(id, revoked)
      endHeld(({ keyId }) => keyId === id)
      return withoutHash(revoked)
    },

    async setLimits(id, limits, by) {
      if (!keys.has(id)) return null
      await store.setKeyLimits(id, limits, by)
      // As it is by now: it may have been used, or revoked.
      const key = keys.get(id)
      if (key === undefined) return null
      const limited = { ...key, limits: { ...key.limits, ...limits } }
      keys.set(id, limited)
      return withoutHash(limited)
    },

    limitsOf: (id) => ({ ...DEFAULT_KEY_LIMITS, ...keys.get(id)?.limits }),
    sign: (claims) => signToken(claims, secret),
    find: (text, address) => findKey(text, address) ?? findToken(text),

    async [Symbol.asyncDispose]() {
      for (const timer of timers) clearInterval(timer)
      await noteUses()
    },
  }
}

function withoutHash(key: StoredKey): ApiKey {
  const { id, name, owner, role, presets, limits, createdAt, createdBy, expiresAt, revokedAt } = key
  const { lastUsedAt, lastUsedFrom } = key
  return {
    ...{ id, name, owner, role, presets, limits, createdAt, createdBy, expiresAt, revokedAt },
    ...{ lastUsedAt, lastUsedFrom },
  }
}
