import { constants } from 'node:fs'
import { access, stat } from 'node:fs/promises'
import { delimiter, isAbsolute, join, resolve } from 'node:path'
import type { AssignedGpu, TextMap } from '@gpu-service/tasks'

const PASSED_ON = /^(?:PATH|LANG|LANGUAGE|LC_\w+|TZ|TMPDIR|LD_LIBRARY_PATH|CUDA_HOME|CUDA_PATH)$/

/** What a worker gets of the service's own environment, and what holds it to its GPUs, as nothing else confines a process. */
export function hostEnvironment(gpus: readonly AssignedGpu[]): TextMap {
  const passedOn = Object.entries(process.env).filter(
    (entry): entry is [string, string] => PASSED_ON.test(entry[0]) && entry[1] !== undefined,
  )
  return {
    PATH: '/usr/local/bin:/usr/bin:/bin',
    ...Object.fromEntries(passedOn),
    CUDA_VISIBLE_DEVICES: gpus.flatMap((gpu) => (gpu.simulated ? [] : [gpu.id])).join(','),
  }
}

/** The absolute path of a program, as a shell in `cwd` would find it; `null`: there is none that can be run. */
export async function findProgram(program: string, cwd: string, path: string): Promise<string | null> {
  const candidates = program.includes('/')
    ? [resolve(cwd, program)]
    : path
        .split(delimiter)
        .filter(isAbsolute)
        .map((folder) => join(folder, program))
  for (const candidate of candidates) {
    if (await isProgram(candidate)) return candidate
  }
  return null
}

async function isProgram(path: string): Promise<boolean> {
  try {
    await access(path, constants.X_OK)
    return (await stat(path)).isFile()
  } catch {
    return false
  }
}
