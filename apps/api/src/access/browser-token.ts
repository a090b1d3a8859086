import { createHmac, randomUUID, timingSafeEqual } from 'node:crypto'
import type { Principal, PresetId, Role, TaskId } from '@gpu-service/tasks'

/** What a token says. It is signed, not secret: whoever holds the token can read it. */
export interface TokenClaims {
  readonly id: string
  /** The key whose holder made it, and with which it ends; `null`: a program on this machine did. */
  readonly keyId: string | null
  readonly owner: string
  readonly role: Extract<Role, 'read' | 'submit'>
  /** What it is for: one of the two. */
  readonly taskId: string | null
  readonly presetId: string | null
  /** Milliseconds since 1970. */
  readonly expiresAt: number
}

const FORM = /^gpt_([\w-]{1,1000})\.([\w-]{43})$/

export function newTokenId(): string {
  return randomUUID()
}

export function signToken(claims: TokenClaims, secret: Buffer): string {
  const { id, keyId, owner, role, taskId, presetId, expiresAt } = claims
  const body = Buffer.from(JSON.stringify([1, id, keyId, owner, role, taskId, presetId, expiresAt])).toString(
    'base64url',
  )
  return `gpt_${body}.${macOf(body, secret).toString('base64url')}`
}

/** `null`: the text is no token of this installation. Whether it has expired, and whether its key has, is not looked at. */
export function readToken(text: string, secret: Buffer): TokenClaims | null {
  const [, body, mac] = FORM.exec(text) ?? []
  if (body === undefined || mac === undefined) return null
  const given = Buffer.from(mac, 'base64url')
  const expected = macOf(body, secret)
  if (given.length !== expected.length || !timingSafeEqual(given, expected)) return null
  // Signed here: it is what `signToken` wrote.
  const [, id, keyId, owner, role, taskId, presetId, expiresAt] = JSON.parse(
    Buffer.from(body, 'base64url').toString(),
  ) as [1, string, string | null, string, TokenClaims['role'], string | null, string | null, number]
  return { id, keyId, owner, role, taskId, presetId, expiresAt }
}

export function principalOfToken({ id, keyId, owner, role, taskId, presetId }: TokenClaims): Principal {
  return {
    ...{ kind: 'token', id, keyId, owner, role, name: `token ${id.slice(0, 8)} of ${owner}` },
    presets: presetId === null ? null : [presetId as PresetId],
    taskId: taskId as TaskId | null,
  }
}

function macOf(body: string, secret: Buffer): Buffer {
  return createHmac('sha256', secret).update(body).digest()
}
