import { createHash, randomBytes } from 'node:crypto'

const PREFIX = 'gpu'
const ID_BYTES = 6
const SECRET_BYTES = 32
const CHECK_LENGTH = 8
const FORM = new RegExp(
  `^${PREFIX}_([0-9a-f]{${2 * ID_BYTES}})_([0-9a-f]{${2 * SECRET_BYTES}})_([0-9a-f]{${CHECK_LENGTH}})$`,
)

/** The text of an API key, `gpu_<id>_<secret>_<check>`, taken apart. */
export interface KeyText {
  readonly id: string
  /** 256 bits, as hex. */
  readonly secret: string
}

/** A new key's text, whose secret nobody can guess. */
export function newKeyText(): KeyText & { readonly text: string } {
  const id = randomBytes(ID_BYTES).toString('hex')
  const secret = randomBytes(SECRET_BYTES).toString('hex')
  const body = `${PREFIX}_${id}_${secret}`
  return { id, secret, text: `${body}_${checkOf(body)}` }
}

/** `null`: the text is no key, or one that was not copied whole. */
export function parseKeyText(text: string): KeyText | null {
  const [, id, secret, check] = FORM.exec(text) ?? []
  if (id === undefined || secret === undefined) return null
  return check === checkOf(`${PREFIX}_${id}_${secret}`) ? { id, secret } : null
}

/** What is kept of a secret. A fast hash does: it is no password, of which there are only so many. */
export function hashOf(secret: string): string {
  return createHash('sha256').update(secret).digest('hex')
}

function checkOf(body: string): string {
  return createHash('sha256').update(body).digest('hex').slice(0, CHECK_LENGTH)
}
