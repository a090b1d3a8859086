import { SERVICE } from '@gpu-service/tasks'
import { isLoopback, type Config } from '../config.ts'
import type { KeyRing } from './key-ring.ts'

/** Nobody could call the service as it is set up: keys are needed, and none is of use. The message says how to make one. */
export class NoKeyError extends Error {
  override readonly name = 'NoKeyError'
}

/**
 * Where nobody could call without a key, the first start makes one: its text, which is shown once; `null`: none was made.
 *
 * @throws NoKeyError where there were keys, and none of them lets anybody in any more.
 */
export async function firstKeyOf(
  keys: KeyRing,
  { host, auth }: Pick<Config, 'host' | 'auth'>,
): Promise<string | null> {
  if (isLoopback(host) && auth === 'loopback') return null
  if (keys.list().length === 0) {
    const key = { name: 'first', owner: 'local', role: 'admin', presets: null } as const
    const { text } = await keys.create({ ...key, limits: {}, expiresAt: null }, SERVICE)
    return text
  }
  if (keys.hasUsable()) return null
  const why = isLoopback(host) ? 'AUTH=required' : `HOST=${host}`
  throw new NoKeyError(
    `${why} needs an API key, and all that there are have expired or are revoked. Make one: npm run keys -- create --name <name> --role admin`,
  )
}
