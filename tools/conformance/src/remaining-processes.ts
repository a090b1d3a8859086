import { readdir, readFile } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'

/** The variable by which a worker's processes are found. */
export const MARK = 'GPU_SERVICE_CONFORMANCE'

const VANISHING_MS = 1_000
const LOOK_AGAIN_MS = 20

/**
 * The processes that still run with a mark in their environment a moment after they should be gone, as "name (number)". Empty where
 * the system does not show environments.
 */
export async function remainingProcesses(mark: string): Promise<readonly string[]> {
  const deadline = performance.now() + VANISHING_MS
  for (;;) {
    const found = await marked(mark)
    if (found.length === 0 || performance.now() > deadline) return found
    await sleep(LOOK_AGAIN_MS)
  }
}

async function marked(mark: string): Promise<string[]> {
  const found: string[] = []
  for (const pid of await entriesOf('/proc')) {
    if (!/^\d+$/.test(pid)) continue
    const environment = await read(`/proc/${pid}/environ`)
    if (environment.split('\0').includes(`${MARK}=${mark}`)) {
      const name = (await read(`/proc/${pid}/comm`)).trim()
      if (name !== '') found.push(`${name} (${pid})`)
    }
  }
  return found
}

async function entriesOf(folder: string): Promise<string[]> {
  return readdir(folder).catch(() => [])
}

/** Empty where the process is gone, or is not ours to look at. */
async function read(file: string): Promise<string> {
  return readFile(file, 'utf8').catch(() => '')
}
