import { join } from 'node:path'
import type { Subject } from '@gpu-service/conformance'
import { readWorkerPackage, type WorkerPackage } from '@gpu-service/process-runner'
import { KitError } from './kit-error.ts'
import { parseWorkerName, workerFolder } from './worker-name.ts'

/** The package that a person named as `<category>/<name>`; `root` is the checkout's. */
export async function openPackage(root: string, text: string): Promise<WorkerPackage> {
  const folder = workerFolder(parseWorkerName(text))
  let found
  try {
    found = await readWorkerPackage(join(root, folder))
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === 'ENOENT')) throw error
    throw new KitError(
      `There is no worker package in ${folder}: no worker.yaml. npm run new-worker -- ${text} makes one.`,
    )
  }
  if (typeof found === 'string') throw new KitError(found)
  return found
}

/** A package as what it runs as: its image, or the command for machines without Docker. */
export function subjectOf({ name, image, folder, localCommand }: WorkerPackage, isLocal: boolean): Subject {
  if (!isLocal) return { kind: 'image', image, command: [] }
  if (localCommand === null) throw new KitError(`${name} has no local command: it runs in its image only`)
  return { kind: 'command', command: localCommand.map(shellWord).join(' '), cwd: folder }
}

/** A text as one word of a shell's line. */
export function shellWord(text: string): string {
  return `'${text.replaceAll("'", String.raw`'\''`)}'`
}
