import { isAtLeast } from '@gpu-service/tasks'
import type { NewKey } from './key-ring.ts'

const MAX_NAME = 100
const MAX_PRESETS = 100
/** Of an account, and of somebody below one. */
export const WORD = /^[\w.-]{1,64}$/
export const WORD_TEXT = '1 to 64 of letters, digits, ".", "_" and "-"'

/** What is wrong with the key that is asked for; `null`: nothing. */
export function problemOfNewKey(key: NewKey, now: number): string | null {
  const { name, owner, role, presets, expiresAt } = key
  if (name.trim() === '' || name.length > MAX_NAME) return `name must have 1 to ${MAX_NAME} characters.`
  if (!WORD.test(owner)) return `owner must have ${WORD_TEXT}.`
  if (presets !== null && (presets.length === 0 || presets.length > MAX_PRESETS))
    return `presets must be 1 to ${MAX_PRESETS}, or absent for all.`
  // Who runs the service sees what runs on it.
  if (presets !== null && isAtLeast(role, 'operate'))
    return `presets cannot be given for the role ${role.toUpperCase()}.`
  return expiresAt !== null && expiresAt <= now ? 'expiresAt is over.' : null
}
