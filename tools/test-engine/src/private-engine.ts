import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as delay } from 'node:timers/promises'
import { answersPing, clientOf } from './client.ts'

const FOLDER_PREFIX = 'gpu-service-engine-'
const READY_TIMEOUT_MS = 30_000
const STOP_TIMEOUT_MS = 20_000

/**
 * The first process of the engine's namespaces. It starts and signals dockerd as its standard input says, and stops it when that ends,
 * which it does also when the process that holds the other end is killed. When it exits the kernel ends every process that is left in its
 * namespace and drops every mount.
 *
 * A containerd that died with its dockerd is a zombie of this process until a command is waited for; the next dockerd would take it to be
 * alive, and not start one.
 */
const SUPERVISOR = `
log=$1 pidfile=$2 containerd=$3
shift 3
ip link set lo up 2>/dev/null
while read -r command; do
  case $command in
    start)
      for _ in 1 2 3 4 5 6 7 8 9 10; do
        kill -0 "$(cat "$containerd" 2>/dev/null)" 2>/dev/null && sleep 0.1
      done
      { dockerd "$@" </dev/null >>"$log" 2>&1; echo "ended $?"; } & ;;
    *) kill "-$command" "$(cat "$pidfile")" ;;
  esac
done
kill "$(cat "$pidfile" 2>/dev/null)" 2>/dev/null
wait
`

/** A Docker engine that no one else uses, with its own data, network, mounts and processes. */
export interface PrivateEngine extends AsyncDisposable {
  /** For DOCKER_HOST. */
  readonly dockerHost: string
  /** Where dockerd keeps images, containers and their logs. */
  readonly dataRoot: string
  /** Ends dockerd alone: TERM as an orderly restart does, KILL as a crash. Resolves when it has exited. */
  stop(signal: 'TERM' | 'KILL'): Promise<void>
  /** Starts dockerd again over the same data; resolves when it answers. */
  start(): Promise<void>
  /** Halts dockerd alone: it takes connections and answers none. Its containers go on. */
  freeze(): void
  /** Lets it go on. */
  thaw(): void
}

export interface PrivateEngineOptions {
  /** Containers go on while dockerd is away. */
  readonly liveRestore?: boolean
  /** What an administrator would write into `daemon.json`. */
  readonly daemonConfig?: Readonly<Record<string, unknown>>
  /** Its data gets a disk of its own, in memory, of so many MiB. */
  readonly diskMib?: number
}

/** This machine cannot run an engine for the tests. */
export class NoEngineError extends Error {
  override readonly name = 'NoEngineError'
  readonly code = 'NO_ENGINE'
}

/**
 * Starts a Docker engine in namespaces of its own: dockerd deletes and changes bridges and firewall rules of the network namespace that
 * it runs in. Containers have a `bridge` network without a way out. Throws a `NoEngineError` where that is not possible. Disposing it
 * ends its containers and removes its data.
 */
export async function startPrivateEngine(options: PrivateEngineOptions = {}): Promise<PrivateEngine> {
  const obstacle = privateEngineObstacle()
  if (obstacle !== null) throw new NoEngineError(obstacle)
  removeAbandonedFolders()
  try {
    return await startIn(makeFolder(), options, [])
  } catch (error) {
    if (!(error instanceof NoEngineError) || !error.message.includes('bridge')) throw error
    // Some kernels have no bridges. Most tests need none.
    return await startIn(makeFolder(), options, ['--bridge=none'])
  }
}

async function startIn(
  folder: string,
  { liveRestore = false, daemonConfig = {}, diskMib }: PrivateEngineOptions,
  extraArgs: readonly string[],
): Promise<PrivateEngine> {
  const socket = join(folder, 'docker.sock')
  const pidfile = join(folder, 'dockerd.pid')
  const log = join(folder, 'dockerd.log')
  const dataRoot = join(folder, 'data')
  const configFile = join(folder, 'daemon.json')
  writeFileSync(configFile, JSON.stringify(daemonConfig))
  mkdirSync(dataRoot)
  if (diskMib !== undefined)
    execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${diskMib}m,mode=0711`, 'tmpfs', dataRoot])
  const bridge = hostBridge()
  const supervisor = spawn(
    'unshare',
    [
      ...[
        '--net',
        '--pid',
        '--fork',
        '--mount-proc',
        '--kill-child',
        'sh',
        '-c',
        SUPERVISOR,
        'sh',
        log,
        pidfile,
        join(folder, 'exec/containerd/containerd.pid'),
      ],
      ...['--config-file', configFile, '--data-root', dataRoot],
      ...['--exec-root', join(folder, 'exec'), '--pidfile', pidfile],
      ...['--host', `unix://${socket}`, '--iptables=false', '--ip6tables=false'],
      // The host's systemd knows nothing of processes in this namespace.
      ...['--exec-opt', 'native.cgroupdriver=cgroupfs'],
      ...(liveRestore ? ['--live-restore'] : []),
      ...extraArgs,
    ],
    // In a group of its own: a Ctrl-C in the terminal must not reach it before the tests have cleaned up.
    { stdio: ['pipe', 'pipe', 'pipe'], detached: true },
  )
  const exited = once(supervisor, 'exit')
  let complaint = ''
  supervisor.stderr.setEncoding('utf8').on('data', (text: string) => {
    complaint = (complaint + text).slice(-1_000)
  })
  // A supervisor that has ended is noticed by its exit.
  supervisor.stdin.on('error', () => undefined)
  const dockerdEnds = createInterface({ input: supervisor.stdout })

  const engine: PrivateEngine = {
    dockerHost: `unix://${socket}`,
    dataRoot,

    freeze() {
      supervisor.stdin.write('STOP\n')
    },

    thaw() {
      supervisor.stdin.write('CONT\n')
    },

    async stop(signal) {
      const ended = once(dockerdEnds, 'line')
      supervisor.stdin.write(`${signal}\n`)
      await ended
    },

    async start() {
      const giveUp = new AbortController()
      const ended = once(dockerdEnds, 'line', { signal: giveUp.signal }).then(
        () => true,
        () => false,
      )
      supervisor.stdin.write('start\n')
      try {
        const deadline = performance.now() + READY_TIMEOUT_MS
        while (!(await answersPing(engine.dockerHost, 1_000))) {
          if (supervisor.exitCode !== null)
            throw new NoEngineError(`no namespaces to run in: ${complaint.trim()}`)
          const over = await Promise.race([ended, delay(50, false)])
          if (over) throw new NoEngineError(`dockerd ended at once: ${lastErrors(log)}`)
          if (performance.now() > deadline)
            throw new NoEngineError(`dockerd did not answer: ${lastErrors(log)}`)
        }
      } finally {
        giveUp.abort()
      }
    },

    async [Symbol.asyncDispose]() {
      // A dockerd that is told to end waits ten seconds for each container that ignores SIGTERM.
      await removeContainers(engine.dockerHost)
      supervisor.stdin.end()
      const inTime = await Promise.race([
        exited.then(() => true),
        delay(STOP_TIMEOUT_MS, false, { ref: false }),
      ])
      if (!inTime) {
        supervisor.kill('SIGKILL')
        await exited
      }
      removeFolder(folder)
      if (hostBridge() !== bridge) {
        throw new Error(
          `The tests' engine changed the host's docker0: it was ${bridge}, it is ${hostBridge()}`,
        )
      }
    },
  }

  try {
    await engine.start()
    return engine
  } catch (error) {
    await engine[Symbol.asyncDispose]()
    throw error
  }
}

/** Why this machine cannot start a private engine; `null` where it can, as far as can be told beforehand. */
export function privateEngineObstacle(): string | null {
  if (process.platform !== 'linux') return 'an engine for the tests can be started on Linux only'
  if (process.getuid?.() !== 0) return 'only root can start an engine for the tests'
  const missing = ['dockerd', 'unshare'].filter((program) => !isInstalled(program))
  return missing.length === 0 ? null : `${missing.join(' and ')} is not installed`
}

async function removeContainers(dockerHost: string): Promise<void> {
  if (!(await answersPing(dockerHost, 1_000))) return
  const docker = clientOf(dockerHost, STOP_TIMEOUT_MS)
  const containers = await docker.listContainers({ all: true })
  await Promise.all(containers.map(({ Id }) => docker.getContainer(Id).remove({ force: true })))
}

function isInstalled(program: string): boolean {
  return (process.env['PATH'] ?? '').split(':').some((folder) => existsSync(join(folder, program)))
}

function makeFolder(): string {
  return mkdtempSync(join(tmpdir(), `${FOLDER_PREFIX}${process.pid}-`))
}

/** A process that was killed leaves its engine's data behind; the engine itself has ended with it. */
function removeAbandonedFolders(): void {
  for (const name of readdirSync(tmpdir())) {
    const owner = new RegExp(`^${FOLDER_PREFIX}(\\d+)-`).exec(name)?.[1]
    if (owner !== undefined && !existsSync(`/proc/${owner}`)) {
      removeFolder(join(tmpdir(), name))
    }
  }
}

function removeFolder(folder: string): void {
  const dataRoot = join(folder, 'data')
  if (readFileSync('/proc/self/mounts', 'utf8').includes(` ${dataRoot} tmpfs `))
    execFileSync('umount', [dataRoot])
  rmSync(folder, { recursive: true, force: true })
}

/** What tells the host's docker0 from one that was made anew. */
function hostBridge(): string {
  try {
    const read = (name: string) => readFileSync(`/sys/class/net/docker0/${name}`, 'utf8').trim()
    return `number ${read('ifindex')} with address ${read('address')}`
  } catch {
    return 'not there'
  }
}

function lastErrors(log: string): string {
  const lines = existsSync(log) ? readFileSync(log, 'utf8').trim().split('\n') : []
  const errors = lines.filter((line) => /level=(error|fatal)|^failed|failed to start/.test(line))
  return (errors.length > 0 ? errors : lines).slice(-3).join(' | ').slice(-1_000) || 'it said nothing'
}
