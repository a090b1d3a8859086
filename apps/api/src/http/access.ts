import type { IncomingHttpHeaders, IncomingMessage } from 'node:http'

export interface AccessOptions {
  /** Origins from which browsers may call, each as `scheme://host[:port]`. */
  readonly allowedOrigins: readonly string[]
  /** Names in the Host header that are served beside the loopback ones; lower case, without ports. */
  readonly allowedHosts: readonly string[]
}

/** Decides by its head whether a request is served, the same for HTTP requests, event streams and WebSockets. */
export interface Access {
  /** Why the request is not served; `null`: it is. */
  refusalOf(request: Pick<IncomingMessage, 'url' | 'headers' | 'rawHeaders'>): string | null
  /** What a browser must be told so that a page of the request's origin may read the answer; empty where no browser asks. */
  corsHeaders(headers: IncomingHttpHeaders): Readonly<Record<string, string>>
}

const LOOPBACK_HOSTS = ['localhost', '127.0.0.1', '[::1]']

/**
 * A Host that is not listed is refused: with a name of its own that points here, a foreign page could otherwise read what this machine
 * serves. So is an Origin that is not listed; who sends none is no browser (or a page that can do nothing with the answer).
 */
export function createAccess({ allowedOrigins, allowedHosts }: AccessOptions): Access {
  const origins = new Set(allowedOrigins)
  const hosts = new Set([...LOOPBACK_HOSTS, ...allowedHosts])
  return {
    refusalOf(request) {
      const { origin } = request.headers
      const named = hostsOf(request)
      if (named.length === 0 || !named.every((host) => hosts.has(nameOf(host)))) {
        return 'This host name is not served; ALLOWED_HOSTS lists those that are.'
      }
      if (origin !== undefined && !origins.has(origin)) {
        return 'Pages of this origin may not call; ALLOWED_ORIGINS lists those that may.'
      }
      return null
    },
    corsHeaders({ origin }) {
      if (origin === undefined || !origins.has(origin)) return {}
      return { 'access-control-allow-origin': origin, vary: 'Origin' }
    },
  }
}

/** What the answer to a browser's preflight adds. */
export const PREFLIGHT_HEADERS = {
  'access-control-allow-methods': 'GET, POST',
  'access-control-allow-headers':
    'authorization, content-type, content-digest, accept, apollo-require-preflight',
  'access-control-max-age': '600',
}

/** Whether a Host header names this machine as only programs on it do. */
export function isLoopbackName(host: string | undefined): boolean {
  return host !== undefined && LOOPBACK_HOSTS.includes(nameOf(host))
}

/** All that a request names as the host: whoever stands between may have gone by another one of them. */
function hostsOf({ url = '', rawHeaders }: Pick<IncomingMessage, 'url' | 'rawHeaders'>): readonly string[] {
  const ofTarget = /^[a-z][a-z\d+.-]*:\/\/([^/?#]*)/i.exec(url)?.[1]
  const ofHeaders = rawHeaders.filter((_, at) => at % 2 === 1 && rawHeaders[at - 1]?.toLowerCase() === 'host')
  return ofTarget === undefined ? ofHeaders : [ofTarget, ...ofHeaders]
}

/** A Host header without its port, lower case. */
function nameOf(host: string): string {
  return host.toLowerCase().replace(/:\d{1,5}$/, '')
}
