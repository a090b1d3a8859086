import { mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { type Language, parseWorkerName, workerFiles } from '../src/index.ts'

const ROOT = join(import.meta.dirname, '../../..')

export interface FreshWorker extends AsyncDisposable {
  /** A root that stands in for the checkout's. */
  readonly root: string
  readonly folder: string
}

/** A worker package as the generator makes it, in a checkout of its own. */
export async function freshWorker(name: string, language: Language): Promise<FreshWorker> {
  const root = await mkdtemp(join(tmpdir(), 'kit-test-'))
  for (const path of ['node_modules', 'tools', 'tsconfig.base.json', 'workers/sdk']) {
    await mkdir(dirname(join(root, path)), { recursive: true })
    await symlink(join(ROOT, path), join(root, path))
  }
  const made = await workerFiles(parseWorkerName(name), language)
  const folder = join(root, made.folder)
  for (const { path, content, mode } of made.files) {
    await mkdir(dirname(join(folder, path)), { recursive: true })
    await writeFile(join(folder, path), content, { mode })
  }
  return { root, folder, [Symbol.asyncDispose]: () => rm(root, { recursive: true }) }
}
