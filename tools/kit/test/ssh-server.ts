import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync } from 'node:fs'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { createServer, type AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'

export interface SshServer extends AsyncDisposable {
  /** A configuration for ssh with the hosts `server`, and `cut`: the same one over a line that breaks when 4 MB have been sent. */
  readonly config: string
  /** The home folder there. */
  readonly home: string
}

/** Breaks the connection when so many bytes have been sent. */
const CUTTING = `
const { connect } = require('node:net')
const [port, limit] = process.argv.slice(2).map(Number)
const socket = connect(port, '127.0.0.1')
let sent = 0
process.stdin.on('data', (bytes) => {
  sent += bytes.length
  if (sent > limit) process.exit(1)
  if (!socket.write(bytes)) { process.stdin.pause(); socket.once('drain', () => process.stdin.resume()) }
}).on('end', () => socket.end())
socket.pipe(process.stdout)
socket.on('close', () => process.exit(0))
`
const CUT_AFTER_BYTES = 4_000_000

/** An sshd on this machine, for root, whose shells have the engine at `dockerHost`. */
export async function startSshServer(dockerHost: string): Promise<SshServer> {
  const home = await mkdtemp(join(tmpdir(), 'kit-sshd-'))
  const path = (name: string): string => join(home, '.sshd', name)
  mkdirSync(path(''))
  for (const key of ['host', 'user'])
    execFileSync('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-f', path(key)])
  // Where sshd shuts itself in, as its service would have made it.
  mkdirSync('/run/sshd', { recursive: true, mode: 0o755 })
  const port = await freePort()
  await writeFile(
    path('sshd_config'),
    [
      `Port ${port}`,
      'ListenAddress 127.0.0.1',
      `HostKey ${path('host')}`,
      `AuthorizedKeysFile ${path('user.pub')}`,
      'PidFile none',
      'StrictModes no',
      'UsePAM no',
      'PermitRootLogin yes',
      `SetEnv DOCKER_HOST=${dockerHost} HOME=${home} DOCKER_BUILDKIT=0`,
    ].join('\n'),
  )
  await writeFile(
    path('ssh_config'),
    [
      'Host server cut',
      `Port ${port}`,
      'HostName 127.0.0.1',
      'User root',
      `IdentityFile ${path('user')}`,
      'IdentitiesOnly yes',
      'StrictHostKeyChecking no',
      'UserKnownHostsFile /dev/null',
      'LogLevel ERROR',
      'BatchMode yes',
      'Host cut',
      `ProxyCommand ${process.execPath} ${path('cut.cjs')} ${port} ${CUT_AFTER_BYTES}`,
    ].join('\n'),
  )
  await writeFile(path('cut.cjs'), CUTTING)
  const sshd = spawn('/usr/sbin/sshd', ['-D', '-e', '-f', path('sshd_config')], {
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  const exited = once(sshd, 'exit')
  const lines = createInterface({ input: sshd.stderr })
  const words: string[] = []
  for await (const line of lines) {
    words.push(line)
    if (line.includes('Server listening')) break
  }
  sshd.stderr.resume()
  if (!words.at(-1)?.includes('Server listening'))
    throw new Error(`sshd has not started: ${words.join(' | ')}`)
  return {
    config: path('ssh_config'),
    home,
    async [Symbol.asyncDispose]() {
      sshd.kill()
      await exited
      await rm(home, { recursive: true, force: true })
    },
  }
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  server.close()
  await once(server, 'close')
  return port
}
