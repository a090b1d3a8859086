import type { Clock, KeyLimits, LimitName, Principal } from '@gpu-service/tasks'

const MINUTE_MS = 60_000
/** So much of a minute's amount may come at once. */
const BURST = 1 / 3
/** How long somebody who has as much open as he may is told to wait. */
const OPEN_RETRY_SECONDS = 5
/** Tokens of which it is remembered what they have asked for; those with something open count beyond it. */
const MAX_TOKENS = 20_000

/** Of one browser token, which is in the hands of one page. Those of its key hold for all of the key's tokens together. */
const TOKEN_LIMITS = {
  requestsPerMinute: 600,
  submitsPerMinute: 60,
  sockets: 20,
  subscriptions: 100,
} as const satisfies Partial<KeyLimits>

type Rate = Extract<LimitName, 'requestsPerMinute' | 'submitsPerMinute'>
type Opened = Extract<LimitName, 'sockets' | 'subscriptions'>
type Metered = Pick<KeyLimits, Rate | Opened>

/** A limit is reached: nothing of what was asked for is done. */
export interface LimitReached {
  readonly limit: LimitName
  /** For people: which limit of what, and how much it is. */
  readonly message: string
  readonly retryAfterSeconds: number
}

/** What one caller may still ask for. `null`: this; it then counts. */
export interface Meter {
  request(): LimitReached | null
  /** So many tasks. A batch that is larger than what is left is let through where anything is left, and has to be made up for. */
  submit(count: number): LimitReached | null
  /** Counts until it is disposed. */
  open(what: Opened): Disposable | LimitReached
}

/** Meters what the holders of keys and tokens ask for. */
export interface Meters {
  of(principal: Pick<Principal, 'kind' | 'id' | 'keyId'>): Meter
  /** How many are open with the key and its tokens. */
  openOf(keyId: string): Readonly<Record<Opened, number>>
}

/** `limitsOf`: of a key, as they are now. A program on this machine, without a key, is not limited. */
export function createMeters(limitsOf: (keyId: string) => KeyLimits, clock: Clock): Meters {
  const keys = new Map<string, Account>()
  const tokens = new Map<string, Account>()

  function ofKey(id: string): Account {
    const known = keys.get(id) ?? new Account(`API key ${id}`, () => limitsOf(id), clock)
    keys.set(id, known)
    return known
  }

  function ofToken(id: string): Account {
    const known = tokens.get(id) ?? new Account('A browser token', () => TOKEN_LIMITS, clock)
    tokens.delete(id)
    tokens.set(id, known)
    if (tokens.size > MAX_TOKENS)
      for (const [oldest, account] of tokens) {
        if (account.isIdle) tokens.delete(oldest)
        if (tokens.size <= MAX_TOKENS || oldest === id) break
      }
    return known
  }

  return {
    of({ kind, id, keyId }) {
      const accounts = [
        ...(kind === 'token' && id !== null ? [ofToken(id)] : []),
        ...(keyId === null ? [] : [ofKey(keyId)]),
      ]
      return meterOver(accounts)
    },
    openOf(keyId) {
      const account = keys.get(keyId)
      return {
        sockets: account?.openOf('sockets') ?? 0,
        subscriptions: account?.openOf('subscriptions') ?? 0,
      }
    },
  }
}

/** Of whom no limits hold for. */
export const UNMETERED: Meter = meterOver([])

/** All of them must have it left, and then all count it. */
function meterOver(accounts: readonly Account[]): Meter {
  function spend(rate: Rate, amount: number): LimitReached | null {
    for (const account of accounts) {
      const reached = account.exceeded(rate)
      if (reached !== null) return reached
    }
    for (const account of accounts) account.spend(rate, amount)
    return null
  }
  return {
    request: () => spend('requestsPerMinute', 1),
    submit: (count) => spend('submitsPerMinute', count),
    open(what) {
      for (const account of accounts) {
        const reached = account.full(what)
        if (reached !== null) return reached
      }
      for (const account of accounts) account.opened(what, 1)
      let isOpen = true
      return {
        [Symbol.dispose]() {
          if (isOpen) for (const account of accounts) account.opened(what, -1)
          isOpen = false
        },
      }
    },
  }
}

/** What one key or token has asked for. */
class Account {
  readonly #name: string
  readonly #limits: () => Metered
  readonly #clock: Clock
  /** What of each rate is used up, as of then; it comes back with time. */
  readonly #used: Record<Rate, { amount: number; at: number }>
  readonly #open = { sockets: 0, subscriptions: 0 }

  constructor(name: string, limits: () => Metered, clock: Clock) {
    this.#name = name
    this.#limits = limits
    this.#clock = clock
    const at = clock.monotonic()
    this.#used = { requestsPerMinute: { amount: 0, at }, submitsPerMinute: { amount: 0, at } }
  }

  get isIdle(): boolean {
    return this.#open.sockets + this.#open.subscriptions === 0
  }

  exceeded(rate: Rate): LimitReached | null {
    const perMinute = this.#limits()[rate]
    if (perMinute === null) return null
    const atOnce = perMinute === 0 ? 0 : Math.max(1, perMinute * BURST)
    const over = this.#usedNow(rate, perMinute) + 1 - atOnce
    if (over <= 0) return null
    const retryAfterSeconds = perMinute === 0 ? 60 : Math.ceil((over / perMinute) * (MINUTE_MS / 1_000))
    const what = rate === 'submitsPerMinute' ? 'submit so many tasks' : 'ask so much'
    const message = `${this.#name} may not ${what} in so short a time (${rate} is ${perMinute}).`
    return { limit: rate, message, retryAfterSeconds }
  }

  spend(rate: Rate, amount: number): void {
    const perMinute = this.#limits()[rate]
    if (perMinute === null) return
    this.#used[rate] = { amount: this.#usedNow(rate, perMinute) + amount, at: this.#clock.monotonic() }
  }

  full(what: Opened): LimitReached | null {
    const most = this.#limits()[what]
    if (most === null || this.#open[what] < most) return null
    const message = `${this.#name} has ${this.#open[what]} ${what} open, and may have ${most}.`
    return { limit: what, message, retryAfterSeconds: OPEN_RETRY_SECONDS }
  }

  opened(what: Opened, by: 1 | -1): void {
    this.#open[what] += by
  }

  openOf(what: Opened): number {
    return this.#open[what]
  }

  #usedNow(rate: Rate, perMinute: number): number {
    const { amount, at } = this.#used[rate]
    return Math.max(0, amount - ((this.#clock.monotonic() - at) / MINUTE_MS) * perMinute)
  }
}
