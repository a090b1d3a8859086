import type { IncomingHttpHeaders } from 'node:http'
import { LOCAL, type Clock, type Principal } from '@gpu-service/tasks'
import { isLoopbackName } from '../http/access.ts'
import type { Bearer, Hold, KeyRing } from './key-ring.ts'
import type { Meter, Meters } from './meters.ts'

/** Wrong keys that an address may show in a minute before it is told to wait. */
const MAX_FAILURES = 10
const MINUTE_MS = 60_000
/** Addresses whose failures are remembered. */
const MAX_ADDRESSES = 10_000

/** Where a request comes from. */
export interface Origin {
  /** The peer's address; `null`: the socket in the data folder, which only who owns the folder can open. */
  readonly address: string | null
  readonly headers: IncomingHttpHeaders
  readonly httpVersion: string
}

/** Who a request is from, as far as it is served. */
export interface Caller {
  readonly principal: Principal
  readonly address: string | null
  readonly meter: Meter
  /** Begins something that lasts; its signal fires when the caller is nobody any more. */
  hold(): Hold
}

export type Authentication =
  | { readonly status: 'known'; readonly caller: Caller }
  /** Not, or not rightly, told who asks. */
  | { readonly status: 'unknown'; readonly message: string }
  /** Too many wrong keys from there. */
  | { readonly status: 'throttled'; readonly message: string; readonly retryAfterSeconds: number }

/** Decides who a request is from, the same for HTTP requests, event streams and WebSockets. */
export interface Authenticator {
  /** `credential`: a key or a token, as it was given, with or without `Bearer `; `null`: none was. */
  authenticate(origin: Origin, credential: string | null): Authentication
}

/**
 * Without a key only a program on this machine is served, as the local admin, unless `required`: one that calls from loopback by a loopback
 * name, is no browser page (those send an Origin), and is no proxy that speaks for somebody else.
 */
export function createAuthenticator(options: {
  readonly keys: KeyRing
  readonly meters: Meters
  readonly required: boolean
  readonly clock: Clock
  /** Told of each key that is not valid, or is so no more. */
  readonly onWrongKey: (address: string) => void
}): Authenticator {
  const { keys, meters, required, clock, onWrongKey } = options
  const failures = new Map<string, { readonly since: number; count: number }>()

  /** Notes a wrong key; gives how long the address has to wait, in milliseconds; 0: it has not shown too many. */
  function fail(address: string): number {
    const now = clock.monotonic()
    const known = failures.get(address)
    const entry = known === undefined || now - known.since >= MINUTE_MS ? { since: now, count: 0 } : known
    entry.count++
    failures.delete(address)
    failures.set(address, entry)
    const [oldest] = failures.keys()
    if (failures.size > MAX_ADDRESSES && oldest !== undefined) failures.delete(oldest)
    return entry.count > MAX_FAILURES ? entry.since + MINUTE_MS - now : 0
  }

  function known({ principal, hold }: Bearer, address: string | null): Authentication {
    return { status: 'known', caller: { principal, address, hold, meter: meters.of(principal) } }
  }

  return {
    authenticate(origin, credential) {
      const { address } = origin
      if (address === null) return known(LOCAL_BEARER, null)
      if (credential !== null) {
        const text = credential.replace(/^Bearer +/i, '').trim()
        const bearer = keys.find(text, address)
        if (bearer !== null) return known(bearer, address)
        onWrongKey(address)
        const waitMs = fail(address)
        if (waitMs === 0) return { status: 'unknown', message: WRONG }
        const retryAfterSeconds = Math.ceil(waitMs / 1_000)
        return { status: 'throttled', message: `Too many wrong keys. ${WRONG}`, retryAfterSeconds }
      }
      if (required || !isLocal(address, origin)) return { status: 'unknown', message: MISSING }
      return known(LOCAL_BEARER, address)
    },
  }
}

const MISSING = 'An API key is needed: Authorization: Bearer <key>.'
/** The same for every reason, so that nothing can be learned from it. */
const WRONG = 'The API key or token is not valid, or is so no more.'

const LOCAL_BEARER: Bearer = {
  principal: LOCAL,
  hold: () => ({ ended: new AbortController().signal, [Symbol.dispose]: () => undefined }),
}

function isLocal(address: string, { headers, httpVersion }: Origin): boolean {
  const isLoopback = address === '::1' || /^(::ffff:)?127\./.test(address)
  // Some proxies add nothing, but speak the HTTP of 1996 to those behind them.
  const isForwarded = httpVersion === '1.0' || FORWARDING.some((name) => headers[name] !== undefined)
  // An image or a link of a page has no Origin; it says what it comes from in another way.
  const isPage = headers.origin !== undefined || headers['sec-fetch-site'] !== undefined
  return isLoopback && !isPage && !isForwarded && isLoopbackName(headers.host)
}

/** What a proxy adds. */
const FORWARDING = ['forwarded', 'via', 'x-forwarded-for', 'x-forwarded-host', 'x-real-ip'] as const
