import { spawn } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { KitError } from './kit-error.ts'
import { shellWord } from './packages.ts'

export interface ServerOptions {
  /** As ssh takes it: a name of its configuration, or `user@host`. */
  readonly host: string
  /** A configuration for ssh in the place of the user's own; `null`: that one. */
  readonly sshConfig: string | null
  /** Aborted: what runs is ended. */
  readonly signal: AbortSignal
}

/** Another machine, reached by the system's ssh over one connection, so that a password is asked for once. */
export interface Server extends AsyncDisposable {
  readonly host: string
  /** Runs a script of the shell in the home folder there and gives what it prints. Throws a `KitError` with what it says where it fails. */
  run(script: string, input?: string): Promise<string>
  /**
   * Makes a folder there hold what a folder here holds, sending only what differs, and gives how many bytes that took. What a cut leaves
   * there is used by the next call.
   */
  copy(from: string, to: string, options: { exclude: readonly string[]; prune: boolean }): Promise<number>
}

const PARTIAL = '.partial'

export async function openServer({ host, sshConfig, signal }: ServerOptions): Promise<Server> {
  if (host.startsWith('-')) throw new KitError(`${host} is no name of a server`)
  const folder = await mkdtemp(join(tmpdir(), 'kit-ssh-'))
  const ssh = [
    ...['ssh', ...(sshConfig === null ? [] : ['-F', sshConfig])],
    ...['-o', 'ControlMaster=auto', '-o', `ControlPath=${folder}/%C`, '-o', 'ControlPersist=60'],
    // A connection that is dead is noticed after a minute.
    ...['-o', 'ServerAliveInterval=15', '-o', 'ServerAliveCountMax=4'],
  ]
  const execute = async (program: string, args: readonly string[], input = ''): Promise<Ended> => {
    const child = spawn(program, args, { stdio: 'pipe', signal })
    child.stdin.on('error', () => undefined)
    child.stdin.end(input)
    const ended = new Promise<number | null>((resolve, reject) => {
      child.on('error', reject)
      child.on('close', resolve)
    }).catch((error: unknown) => {
      signal.throwIfAborted()
      throw new KitError(`${program} cannot be run: ${String(error)}`)
    })
    const [stdout, stderr, exitCode] = await Promise.all([text(child.stdout), text(child.stderr), ended])
    return { stdout, stderr: stderr.trim(), exitCode }
  }
  const [program = '', ...args] = ssh
  return {
    host,
    async run(script, input) {
      const { stdout, stderr, exitCode } = await execute(program, [...args, '--', host, script], input)
      if (exitCode !== 0) throw new KitError(`${host}: ${stderr || `it failed with exit code ${exitCode}`}`)
      return stdout
    },
    async copy(from, to, { exclude, prune }) {
      const { stdout, stderr, exitCode } = await execute('rsync', [
        ...['--archive', '--protect-args', '--stats', '--no-human-readable', `--partial-dir=${PARTIAL}`],
        ...(prune ? ['--delete'] : []),
        ...exclude.map((path) => `--exclude=${path}`),
        ...[`--rsh=${ssh.map(shellWord).join(' ')}`, '--', `${from}/`, `${host}:${to}/`],
      ])
      if (exitCode !== 0)
        throw new KitError(
          `${host}: copying has been cut off; the next try goes on where it ended: ${stderr || `exit code ${exitCode}`}`,
        )
      return Number(/^Total bytes sent: ([\d,]+)/m.exec(stdout)?.[1]?.replaceAll(',', ''))
    },
    async [Symbol.asyncDispose]() {
      // There is none where nothing has been asked for, or the server has gone.
      const closing = spawn(program, [...args, '-O', 'exit', '--', host], { stdio: 'ignore' })
      await new Promise((resolve) => closing.on('close', resolve).on('error', resolve))
      await rm(folder, { recursive: true, force: true })
    },
  }
}

interface Ended {
  readonly stdout: string
  readonly stderr: string
  readonly exitCode: number | null
}
