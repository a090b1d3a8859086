import { execFile } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { readdir, readFile } from 'node:fs/promises'
import { setImmediate } from 'node:timers/promises'
import { promisify } from 'node:util'

const run = promisify(execFile)
const isLinux = process.platform === 'linux'

/** Tells one process from every other of this boot, also from a later one that was given the same number. */
export interface ProcessIdentity {
  readonly pid: number
  /** When it started, in whatever way the system tells it. */
  readonly start: string
}

/** The environment variable by which a worker's processes are found again, even those that left its process group. */
export const MARKER = 'GPU_WORKER_NAME'

/** Parses what the launcher wrote of itself: its line of `/proc/<pid>/stat`, elsewhere its number and start time. `null`: neither. */
export function parseIdentity(text: string): ProcessIdentity | null {
  const line = text.trimEnd()
  const pid = /^(\d{1,10}) ./.exec(line)?.[1]
  if (pid === undefined || Number(pid) < 2) return null
  const start = line.includes(')') ? statFields(line)[19] : line.slice(pid.length + 1)
  return start ? { pid: Number(pid), start } : null
}

/** Whether that very process still runs. One that has ended and waits to be reaped does not. */
export async function runs({ pid, start }: ProcessIdentity): Promise<boolean> {
  if (isLinux) {
    const fields = statOf(pid)
    return fields !== null && fields[19] === start && fields[0] !== 'Z' && fields[0] !== 'X'
  }
  const row = await psRow(pid)
  return row !== null && row.start === start && !row.state.startsWith('Z')
}

/**
 * The processes that carry a worker's name in their environment, and did not start before `oldest` (unknown: any). Empty where the
 * system does not show environments.
 */
export async function markedProcesses(
  name: string,
  oldest: ProcessIdentity | null,
): Promise<readonly number[]> {
  if (!isLinux) return []
  const since = Number(oldest?.start ?? 0)
  const found: number[] = []
  for await (const { pid, fields } of allProcesses())
    if (Number(fields[19]) >= since && (await isMarked(pid, name))) found.push(pid)
  return found
}

/** All live processes of a worker: those of its launcher's session, the launcher included, and those that carry the worker's name. */
export async function workerProcesses(name: string, launcher: ProcessIdentity): Promise<readonly number[]> {
  // The number of a launcher that is gone may be that of another session by now.
  const session = (await runs(launcher)) ? String(launcher.pid) : null
  if (!isLinux) return session === null ? [] : groupMembers(session)
  const since = Number(launcher.start)
  const found: number[] = []
  for await (const { pid, fields } of allProcesses()) {
    if (fields[0] === 'Z' || fields[0] === 'X' || Number(fields[19]) < since) continue
    if (fields[3] === session || (await isMarked(pid, name))) found.push(pid)
  }
  return found
}

/** The processes of this system, each with the fields of its `/proc/<pid>/stat`. */
async function* allProcesses(): AsyncGenerator<{ pid: number; fields: readonly string[] }, void> {
  for (const [index, pid] of (await readdir('/proc')).filter((entry) => /^\d+$/.test(entry)).entries()) {
    // The event loop gets its turn on machines with thousands of processes.
    if (index % 100 === 99) await setImmediate()
    const fields = statOf(pid)
    if (fields !== null) yield { pid: Number(pid), fields }
  }
}

async function isMarked(pid: number, name: string): Promise<boolean> {
  // Not read in place like its stat: this waits for a lock of that process.
  const environment = await readFile(`/proc/${pid}/environ`).catch(() => null)
  return environment?.includes(`${MARKER}=${name}\0`) ?? false
}

/** Sends a signal to a process, or with a negative number to a process group. Harmless where it is gone. */
export function send(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal)
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === 'ESRCH')) throw error
  }
}

/** Differs from boot to boot. */
export async function bootId(): Promise<string> {
  const id = isLinux
    ? await readFile('/proc/sys/kernel/random/boot_id', 'utf8')
    : (await run('sysctl', ['-n', 'kern.bootsessionuuid'])).stdout
  return id.trim()
}

/** The fields after the name, from the state on; the name may hold anything, spaces and brackets too. */
function statFields(line: string): string[] {
  return line.slice(line.lastIndexOf(')') + 2).split(' ')
}

function statOf(pid: number | string): string[] | null {
  try {
    // Not a disk: the kernel answers in microseconds, where a turn through the thread pool costs a hundred.
    return statFields(readFileSync(`/proc/${pid}/stat`, 'latin1'))
  } catch {
    return null
  }
}

/** The processes of a process group, where there is no `/proc`. */
async function groupMembers(group: string): Promise<number[]> {
  const { stdout } = await run('ps', ['-A', '-o', 'pgid=,pid='])
  return stdout.split('\n').flatMap((row) => {
    const [pgid, pid] = row.trim().split(/ +/)
    return pgid === group ? [Number(pid)] : []
  })
}

async function psRow(pid: number): Promise<{ state: string; start: string } | null> {
  try {
    const { stdout } = await run('ps', ['-o', 'stat=,lstart=', '-p', String(pid)], {
      env: { PATH: process.env['PATH'], LC_ALL: 'C' },
    })
    const [, state, start] = /^(\S+)\s+(.+)$/.exec(stdout.trim()) ?? []
    return state && start ? { state, start } : null
  } catch {
    return null
  }
}
