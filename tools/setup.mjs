// What every command needs before it can run, from a fresh clone on. Needs no package of its own.
import { spawn } from 'node:child_process'
import { existsSync, readFileSync, statSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

export const ROOT = dirname(dirname(fileURLToPath(import.meta.url)))
const MINIMUM_NODE = [20, 19]

/** Something that the person at the terminal has to do; told in its message, without a stack. */
export class SetupError extends Error {
  name = 'SetupError'
}

/** Installs packages and generates code where that is due; quick and silent where nothing is. Throws a `SetupError`. */
export async function prepare() {
  requireNode()
  if (isInstallDue()) await install()
  // Each does nothing where its output is up to date.
  await import('./codegen.mjs')
  const { generate } = await import('./prisma-generate.mjs')
  generate()
}

function requireNode() {
  const [major, minor] = process.versions.node.split('.').map(Number)
  if (major > MINIMUM_NODE[0] || (major === MINIMUM_NODE[0] && minor >= MINIMUM_NODE[1])) return
  throw new SetupError(
    `Node.js ${MINIMUM_NODE.join('.')} or newer is needed; this is ${process.versions.node}. Get it from https://nodejs.org`,
  )
}

function isInstallDue() {
  // npm writes this file when an installation is complete.
  const installed = join(ROOT, 'node_modules/.package-lock.json')
  return (
    !existsSync(installed) || statSync(join(ROOT, 'package-lock.json')).mtimeMs > statSync(installed).mtimeMs
  )
}

async function install() {
  console.log('Installing packages (npm ci) …')
  // Commands of the workspace are developer's commands, whatever NODE_ENV says.
  const args = ['ci', '--include=dev', '--no-audit', '--no-fund', '--loglevel=error']
  const child = spawn('npm', args, {
    cwd: ROOT,
    stdio: ['ignore', 2, 2],
    env: { ...process.env, ...localHeaders() },
  })
  const exitCode = await new Promise((resolve, reject) => {
    child.on('error', reject)
    child.on('close', resolve)
  })
  if (exitCode === 0) return
  throw new SetupError(
    'npm ci has failed: see the lines above. Where better-sqlite3 had to be built from source, it needs python3, make and g++ ' +
      '(Debian and Ubuntu: sudo apt-get install python3 make g++).',
  )
}

/** Where Node.js came with its headers, native packages can be built without downloading them. */
function localHeaders() {
  const prefix = dirname(dirname(process.execPath))
  const header = join(prefix, 'include/node/node_version.h')
  if (!existsSync(header)) return {}
  const text = readFileSync(header, 'utf8')
  const version = ['MAJOR', 'MINOR', 'PATCH'].map(
    (part) => new RegExp(`#define NODE_${part}_VERSION (\\d+)`).exec(text)?.[1],
  )
  return version.join('.') === process.versions.node ? { npm_config_nodedir: prefix } : {}
}

/** Runs a command of these tools; what the machine lacks is said in a line. */
export function runTool(main) {
  main().catch((error) => {
    if (!(error instanceof SetupError)) throw error
    console.error(error.message)
    process.exitCode = 1
  })
}
