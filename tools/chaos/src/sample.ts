import { readdir, readFile, stat } from 'node:fs/promises'
import type { Inspector } from './inspector.ts'
import type { Site } from './site.ts'

/** What the service holds at one moment. */
export interface Sample {
  /** Hours since the first one. */
  readonly hours: number
  readonly rssMb: number
  readonly heapMb: number
  readonly fds: number
  readonly handles: number
  readonly containers: number
  readonly walMb: number
  readonly databaseMb: number
}

export async function takeSample(site: Site, inspector: Inspector, from: number): Promise<Sample> {
  const { pid } = site.service
  if (pid === null) throw new Error('the service does not run')
  const status = await readFile(`/proc/${pid}/status`, 'utf8')
  return {
    hours: (Date.now() - from) / 3_600_000,
    rssMb: Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1]) / 1_024,
    heapMb: await inspector.heapUsedMb(),
    fds: (await readdir(`/proc/${pid}/fd`)).length,
    handles: await inspector.handles(),
    containers: (await site.engine?.containers())?.length ?? 0,
    walMb: await sizeMb(`${site.databaseFile}-wal`),
    databaseMb: await sizeMb(site.databaseFile),
  }
}

async function sizeMb(file: string): Promise<number> {
  return await stat(file).then(
    ({ size }) => size / 2 ** 20,
    () => 0,
  )
}
