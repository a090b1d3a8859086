import {
  createHash,
  createPrivateKey,
  createPublicKey,
  generateKeyPairSync,
  type KeyObject,
  sign,
} from 'node:crypto'
import { chmod, open, readFile, rename } from 'node:fs/promises'
import { join } from 'node:path'

/** What the installation signs with. */
export interface SigningKey {
  /** PEM, SubjectPublicKeyInfo. */
  readonly publicKey: string
  /** `sha256:` and the SHA-256 of the public key's DER in lower-case hex. */
  readonly fingerprint: string
  /** The DER. */
  readonly publicKeyBytes: Buffer
  /** An Ed25519 signature. */
  sign(bytes: Buffer): Buffer
}

const FILE = 'signing-key.pem'

/**
 * The installation's Ed25519 key, made the first time. It lies in the folder, for its owner only; whoever reads it can sign in the
 * installation's name. Throws where the file is there and is no such key.
 */
export async function openSigningKey(folder: string): Promise<SigningKey> {
  const file = join(folder, FILE)
  const text = await readFile(file, 'utf8').catch((error: unknown) => {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return null
    throw error
  })
  if (text === null) return signingKey(await makeKey(file))
  await chmod(file, 0o600)
  return signingKey(parseKey(text, file))
}

function parseKey(text: string, file: string): KeyObject {
  try {
    const key = createPrivateKey(text)
    if (key.asymmetricKeyType === 'ed25519') return key
  } catch (error) {
    throw new Error(
      `${file} cannot be read as a key. Put it back from a copy, or remove it to have a new one made.`,
      {
        cause: error,
      },
    )
  }
  throw new Error(`${file} is not an Ed25519 key.`)
}

/** Whole or not at all, and on the disk: what is signed with it must be verifiable later. */
async function makeKey(file: string): Promise<KeyObject> {
  const { privateKey } = generateKeyPairSync('ed25519')
  const draft = `${file}.new`
  const handle = await open(draft, 'w', 0o600)
  try {
    await handle.chmod(0o600)
    await handle.writeFile(privateKey.export({ type: 'pkcs8', format: 'pem' }))
    await handle.sync()
  } finally {
    await handle.close()
  }
  await rename(draft, file)
  return privateKey
}

function signingKey(privateKey: KeyObject): SigningKey {
  const publicKey = createPublicKey(privateKey)
  const publicKeyBytes = publicKey.export({ type: 'spki', format: 'der' })
  return {
    publicKey: publicKey.export({ type: 'spki', format: 'pem' }).toString(),
    publicKeyBytes,
    fingerprint: `sha256:${createHash('sha256').update(publicKeyBytes).digest('hex')}`,
    sign: (bytes) => sign(null, bytes, privateKey),
  }
}
