import { spawn } from 'node:child_process'
import { open } from 'node:fs/promises'
import { constants } from 'node:fs'
import { Readable } from 'node:stream'
import type { TextMap } from '@gpu-service/tasks'
import type { WorkerFolder } from './worker-folder.ts'

/**
 * Stands over one worker as the leader of its session and process group, and outlives the service.
 *
 * - It records who it is before the worker begins. The link is made by one launcher alone, however many were started for the folder.
 * - It catches the signals that are meant for the worker. Caught signals, unlike ignored ones, are back at their default in the subshell
 *   that becomes the worker. That subshell tells the service on descriptor 3 when it can be signalled; a SIGTERM before is remembered. The
 *   service may be gone by then, and that must not end the worker.
 * - Its own stderr is nowhere, so that the shell's remarks on how the worker died do not stand in the worker's log.
 * - At the end it records the exit code, which only a parent can learn, and takes the rest of the group with it.
 *
 * Its variables have names that no preset has: assigning to an inherited variable would change the worker's environment. `command -p`
 * finds the system's own tools whatever PATH the worker was given.
 */
const LAUNCHER = `
gpu_launcher_folder=$1
gpu_launcher_stopped=
trap gpu_launcher_stopped=yes TERM
trap : INT HUP PIPE
shift
if [ -r /proc/$$/stat ]; then
  read -r gpu_launcher_self < /proc/$$/stat
else
  gpu_launcher_self="$$ $(LC_ALL=C command -p ps -o lstart= -p $$ | command -p sed 's/^ *//;s/ *$//')"
fi
printf '%s\\n' "$gpu_launcher_self" > "$gpu_launcher_folder/identity.$$" || exit 1
command -p ln "$gpu_launcher_folder/identity.$$" "$gpu_launcher_folder/identity" 2> /dev/null
gpu_launcher_code=$?
command -p rm -f "$gpu_launcher_folder/identity.$$"
[ "$gpu_launcher_code" = 0 ] || exit 1
exec 4>&2 2> /dev/null
if [ "$gpu_launcher_stopped" ]; then
  gpu_launcher_code=143
else
  (
    trap '' PIPE
    echo >&3
    trap - PIPE
    exec "$@" 2>&4 3>&- 4>&-
  )
  gpu_launcher_code=$?
fi
trap '' TERM INT HUP PIPE
printf '%s\\n' "$gpu_launcher_code" > "$gpu_launcher_folder/exit.new" &&
  command -p mv "$gpu_launcher_folder/exit.new" "$gpu_launcher_folder/exit"
kill -KILL 0
`

export interface Launch {
  readonly folder: WorkerFolder
  /** The program's absolute path and its arguments. */
  readonly command: readonly string[]
  readonly cwd: string
  readonly env: TextMap
  readonly session: boolean
}

/**
 * Starts a launcher over a prepared folder. Resolves when the worker can be signalled, or when the launcher has ended without a worker:
 * the folder tells which. Rejects where it could not be started.
 */
export async function launch({ folder, command, cwd, env, session }: Launch): Promise<void> {
  // Read-write: a session worker holds the writing end of its own stdin, so that it never ends.
  await using stdin = await open(folder.stdin, session ? constants.O_RDWR : constants.O_RDONLY)
  await using stdout = await open(folder.stdout, 'a', 0o600)
  await using stderr = await open(folder.stderr, 'a', 0o600)
  const child = spawn('/bin/sh', ['-c', LAUNCHER, 'gpu-worker', folder.path, ...command], {
    cwd,
    env: { ...env },
    detached: true,
    stdio: [stdin.fd, stdout.fd, stderr.fd, 'pipe'],
  })
  child.unref()
  const begun = child.stdio[3]
  if (!(begun instanceof Readable)) throw new TypeError('descriptor 3 of the launcher is not readable')
  try {
    await new Promise<void>((resolve, reject) => {
      child.once('error', reject)
      begun.once('data', () => {
        resolve()
      })
      begun.once('close', resolve)
    })
  } finally {
    begun.destroy()
  }
}
