import { createHash } from 'node:crypto'
import { readdir, readFile, stat } from 'node:fs/promises'
import { join } from 'node:path'
import type { WorkerPackage } from '@gpu-service/process-runner'
import type { Deployment } from './deploy-image.ts'
import { shellWord } from './packages.ts'
import type { Server } from './server.ts'

/** What no image is built from. */
const LEFT_OUT = ['node_modules', 'out-tsc', 'test', '__pycache__', '.*']
/** Says what was built there last: of which files, and what came out. */
const STAMP = '.built'

/**
 * Copies a worker package to a server and builds its image there, by its `build.sh`; nothing where that has been done with the same files, and
 * the image is still there.
 * @param folder Where packages are put there; relative to the home folder.
 */
export async function deployFolder(
  server: Server,
  { name, image, folder: from }: WorkerPackage,
  folder: string,
): Promise<Deployment> {
  const to = `${folder}/${name}`
  const hash = await hashOf(from)
  const stampNow = `"${hash} $(docker image inspect --format '{{.Id}}' ${shellWord(image)})"`
  const stamp = shellWord(`${to}/${STAMP}`)
  const answer = await server.run(
    `mkdir -p ${shellWord(to)} && if [ "$(cat ${stamp} 2>/dev/null)" = ${stampNow} ] 2>/dev/null; then echo same; fi`,
  )
  if (answer.trim() === 'same') return { status: 'there', sentBytes: 0 }
  const sentBytes = await server.copy(from, to, { exclude: LEFT_OUT, prune: true })
  await server.run(`cd ${shellWord(to)} && ./build.sh >&2 && echo ${stampNow} >${STAMP}`)
  return { status: 'brought', sentBytes }
}

async function hashOf(folder: string): Promise<string> {
  const hash = createHash('sha256')
  for (const path of await filesOf(folder)) {
    const content = await readFile(join(folder, path))
    const { mode } = await stat(join(folder, path))
    hash.update(`${path}\0${mode & 0o777}\0${content.length}\0`).update(content)
  }
  return hash.digest('hex')
}

async function filesOf(folder: string): Promise<readonly string[]> {
  const entries = await readdir(folder, { withFileTypes: true, recursive: true })
  return entries
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name).slice(folder.length + 1))
    .filter((path) => !path.split('/').some((part) => part.startsWith('.') || LEFT_OUT.includes(part)))
    .sort()
}
