import { createHash } from 'node:crypto'
import { parsePresetFile } from '@gpu-service/presets'
import type { WorkerPackage } from '@gpu-service/process-runner'
import { KitError } from './kit-error.ts'
import { shellWord } from './packages.ts'
import { type Insertion, insertPresets } from './preset-insertion.ts'
import { presetsOf } from './register.ts'
import type { Server } from './server.ts'

/**
 * Puts a package's `presets.yaml` into a presets file on a server, in one step there too. What the service there allows to be mounted and given
 * as secrets cannot be known here: presets that need either are refused.
 */
export async function registerThere(
  server: Server,
  { folder }: WorkerPackage,
  file: string,
): Promise<Insertion> {
  const before = await server.run(`cat ${shellWord(file)}`)
  const insertion = insertPresets(before, await presetsOf(folder))
  if (insertion.added.length === 0) return insertion
  const old = new Set(await problemsOf(before, file))
  const problems = (await problemsOf(insertion.text, file)).filter((problem) => !old.has(problem))
  if (problems.length > 0)
    throw new KitError(
      `Nothing has been written on ${server.host}, as the service would not take it:\n${problems.join('\n')}`,
    )
  const digest = createHash('sha256').update(before).digest('hex')
  await server.run(
    `path=$(readlink -f ${shellWord(file)}) && cp -p "$path" "$path.draft" && cat >"$path.draft" && ` +
      `if [ "$(sha256sum <"$path")" = '${digest}  -' ]; then mv "$path.draft" "$path"; ` +
      `else rm "$path.draft"; echo 'The presets file has been changed meanwhile: try again' >&2; exit 1; fi`,
    insertion.text,
  )
  return insertion
}

async function problemsOf(text: string, file: string): Promise<readonly string[]> {
  const policy = { file, volumeRoots: [], secretRoots: [], secretEnvPrefix: 'WORKER_SECRET_' }
  const parsed = await parsePresetFile(Buffer.from(text), policy)
  return parsed.status === 'valid' ? [] : parsed.issues.map(({ message }) => message)
}
