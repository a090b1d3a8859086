import { isAtLeast, type KeyLimits } from '@gpu-service/tasks'
import type { NewKey } from './key-ring.ts'

const MAX_NAME = 100
const MAX_PRESETS = 100
/** Of an account, and of somebody below one. */
export const WORD = /^[\w.-]{1,64}$/
export const WORD_TEXT = '1 to 64 of letters, digits, ".", "_" and "-"'

const MAX_LIMIT = 1_000_000_000

/** What is wrong with limits; `null`: nothing. */
export function problemOfLimits(limits: Partial<KeyLimits>): string | null {
  for (const [name, amount] of Object.entries(limits))
    if (amount !== null && !(Number.isInteger(amount) && amount >= 0 && amount <= MAX_LIMIT))
      return `${name} must be a whole number from 0 to ${MAX_LIMIT}, or none.`
  return null
}

/** What is wrong with the key that is asked for; `null`: nothing. */
export function problemOfNewKey(key: NewKey, now: number): string | null {
  const { name, owner, role, presets, limits, expiresAt } = key
  if (name.trim() === '' || name.length > MAX_NAME) return `name must have 1 to ${MAX_NAME} characters.`
  if (!WORD.test(owner)) return `owner must have ${WORD_TEXT}.`
  if (presets !== null && (presets.length === 0 || presets.length > MAX_PRESETS))
    return `presets must be 1 to ${MAX_PRESETS}, or absent for all.`
  // Who runs the service sees what runs on it.
  if (presets !== null && isAtLeast(role, 'operate'))
    return `presets cannot be given for the role ${role.toUpperCase()}.`
  const wrongLimit = problemOfLimits(limits)
  if (wrongLimit !== null) return wrongLimit
  return expiresAt !== null && expiresAt <= now ? 'expiresAt is over.' : null
}
