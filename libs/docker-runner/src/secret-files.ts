import { chmod, chown, mkdir, open, readdir, readFile, rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { Secret } from '@gpu-service/tasks'

/** In front of the name of a file that is being written; no secret's name begins with a dot. */
const PARTIAL = '.partial-'

/**
 * Writes each secret as a file of its own that only `user` (`uid:gid`) may read. Those that are there are left alone: a worker that is
 * adopted keeps what it was given.
 */
export async function writeSecrets(folder: string, secrets: readonly Secret[], user: string): Promise<void> {
  await mkdir(folder, { recursive: true })
  await chmod(folder, 0o755)
  const there = new Set(await readdir(folder))
  for (const secret of secrets) {
    if (there.has(secret.name)) continue
    const partial = join(folder, PARTIAL + secret.name)
    await rm(partial, { force: true })
    {
      await using file = await open(partial, 'wx', 0o400)
      await file.writeFile(secret.reveal())
    }
    await giveTo(user, partial)
    await rename(partial, join(folder, secret.name))
  }
}

/**
 * A service that is not root cannot give its files away. Then every user may read them, and what keeps those of the host out is the data
 * folder, which they cannot enter; in the container there is one user only.
 */
async function giveTo(user: string, path: string): Promise<void> {
  const [uid = 0, gid = 0] = user.split(':').map(Number)
  if (uid === process.getuid?.()) return
  try {
    await chown(path, uid, gid)
  } catch (error) {
    if (!hasCode(error, 'EPERM')) throw error
    await chmod(path, 0o444)
  }
}

/** The secrets that were written there; none where there is no such folder. */
export async function readSecrets(folder: string): Promise<readonly Secret[]> {
  let names: string[]
  try {
    names = await readdir(folder)
  } catch (error) {
    if (hasCode(error, 'ENOENT')) return []
    throw error
  }
  const whole = names.filter((name) => !name.startsWith(PARTIAL))
  return Promise.all(whole.map(async (name) => new Secret(name, await readFile(join(folder, name)))))
}

function hasCode(error: unknown, code: string): boolean {
  return error instanceof Error && 'code' in error && error.code === code
}
