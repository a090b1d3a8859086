import { randomBytes } from 'node:crypto'
import { open, readFile, realpath, rename, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { type ParseOptions, parsePresetFile, presetIssueText } from '@gpu-service/presets'
import type { WorkerPackage } from '@gpu-service/process-runner'
import { KitError } from './kit-error.ts'
import { type Insertion, insertPresets } from './preset-insertion.ts'

/**
 * Puts a package's `presets.yaml` into a presets file, all of it or nothing. It is written only where the service would take it, and in one
 * step, so that the service never reads a half. Throws a `KitError` that says why not.
 */
export async function registerWorker(
  { folder }: WorkerPackage,
  { file, ...policy }: ParseOptions,
): Promise<Insertion> {
  const path = await realpath(file).catch((error: unknown) => {
    throw new KitError(`The presets file cannot be read: ${String(error)}`)
  })
  const before = await readFile(path, 'utf8')
  const insertion = insertPresets(before, await presetsOf(folder))
  if (insertion.added.length === 0) return insertion
  const checked = await parsePresetFile(Buffer.from(insertion.text), { file, ...policy })
  if (checked.status === 'invalid')
    throw new KitError(
      `Nothing has been written, as the service would not take it:\n${checked.issues.map(presetIssueText).join('\n')}`,
    )
  await replace(path, before, insertion.text)
  return insertion
}

/** What a package brings to be registered. */
export async function presetsOf(folder: string): Promise<string> {
  const file = join(folder, 'presets.yaml')
  try {
    return await readFile(file, 'utf8')
  } catch (error) {
    throw new KitError(`The package has no presets to register: ${String(error)}`)
  }
}

async function replace(path: string, before: string, text: string): Promise<void> {
  const { mode, uid, gid } = await stat(path)
  const draft = `${path}.${randomBytes(4).toString('hex')}`
  try {
    {
      await using handle = await open(draft, 'wx', mode)
      await handle.chown(uid, gid)
      // Whatever the umask is here: the service may be somebody else.
      await handle.chmod(mode)
      await handle.writeFile(text)
      await handle.sync()
    }
    if ((await readFile(path, 'utf8')) !== before)
      throw new KitError('The presets file has been changed meanwhile: nothing has been written, try again')
    await rename(draft, path)
  } finally {
    await rm(draft, { force: true })
  }
}
