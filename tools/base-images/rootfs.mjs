import { execFile, spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
import { mkdir, rename, rm, stat } from 'node:fs/promises'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'

const KEYRING = '/usr/share/keyrings/debian-archive-keyring.gpg'
const MERGED_USR_HOOKS = '/usr/share/mmdebstrap/hooks/merged-usr'
const INSTALL_HINT = 'On Debian and Ubuntu: sudo apt-get install mmdebstrap debian-archive-keyring'
/** What dpkg leaves out: nobody reads manuals in a worker. */
const EXCLUDED = ['/usr/share/man/*', '/usr/share/locale/*', '/usr/share/info/*', '/usr/share/doc/*']
const INCLUDED = ['/usr/share/doc/*/copyright']

/**
 * What a root filesystem is made of.
 * @typedef {{ release: string, packages: readonly string[], links: Readonly<Record<string, string>>, removed?: readonly string[] }} RootfsRecipe
 * `release`: Debian's code name. `links`: symbolic links to add, absolute path to target. `removed`: absolute paths, `*` for any name, that
 * packages bring and nobody needs. They go once the packages are set up, which some cannot be without their files.
 */

/** Why no root filesystem could be made; `hint` says what to do. */
export class RootfsError extends Error {
  name = 'RootfsError'
  /** @param {'TOOL_MISSING' | 'FAILED'} code */
  constructor(code, message, hint) {
    super(message)
    this.code = code
    this.hint = hint
  }
}

/**
 * Where the tarball of a recipe is kept between runs; a changed recipe has another path.
 * @param {RootfsRecipe} recipe
 */
export function rootfsPath(recipe) {
  const cache = process.env.XDG_CACHE_HOME || join(homedir(), '.cache')
  const hash = createHash('sha256')
    .update(JSON.stringify(mmdebstrapOptions(recipe)))
    .update(process.arch)
  return join(cache, 'gpu-service', 'base-images', `${recipe.release}-${hash.digest('hex').slice(0, 16)}.tar`)
}

/**
 * Makes the tarball of a minimal Debian from its packages, or finds the one that an earlier run made.
 * @param {RootfsRecipe} recipe
 * @param {{ fresh: boolean, log: (line: string) => void }} options `fresh`: make it again, from today's packages.
 * @returns {Promise<string>} The tarball's path.
 */
export async function makeRootfs(recipe, { fresh, log }) {
  const path = rootfsPath(recipe)
  if (!fresh && existsSync(path)) {
    log(`found its root filesystem in the cache: ${path}`)
    return path
  }
  const sources = await debianSources(recipe.release)
  const list = recipe.packages.join(', ')
  log(`making a root filesystem of Debian ${recipe.release} with ${list}: this takes a minute or so`)
  await mkdir(join(path, '..'), { recursive: true })
  const draft = `${path}.${process.pid}`
  const started = performance.now()
  try {
    await runMmdebstrap([
      ...mmdebstrapOptions(recipe),
      ...(await proxyOptions()),
      recipe.release,
      draft,
      ...sources,
    ])
    // Only a complete one may be found by the next run.
    await rename(draft, path)
  } finally {
    await rm(draft, { force: true })
  }
  const seconds = ((performance.now() - started) / 1000).toFixed(1)
  log(`made it in ${seconds} s: ${megabytes((await stat(path)).size)}, kept as ${path}`)
  return path
}

/** As Docker counts them: 1 MB is a million bytes. */
export function megabytes(bytes) {
  return `${Math.round(bytes / 1e6)} MB`
}

function mmdebstrapOptions({ packages, links, removed = [] }) {
  const hooks = []
  // Without this Debian 12 picks the package `usrmerge`, which brings all of Perl: 50 MB.
  if (existsSync(MERGED_USR_HOOKS)) {
    const pin = '/etc/apt/preferences.d/no-usrmerge'
    hooks.push(
      `--hook-dir=${MERGED_USR_HOOKS}`,
      `--setup-hook=mkdir -p "$1/etc/apt/preferences.d" && printf 'Package: usrmerge\\nPin: release *\\nPin-Priority: -1\\n' > "$1${pin}"`,
      `--customize-hook=rm "$1${pin}"`,
    )
  }
  for (const [path, target] of Object.entries(links)) {
    hooks.push(`--customize-hook=ln -s '${target}' "$1${path}"`)
  }
  for (const path of removed) hooks.push(`--customize-hook=rm -r "$1"${path}`)
  return [
    '--quiet',
    '--variant=apt',
    '--format=tar',
    `--include=${packages.join(',')}`,
    ...EXCLUDED.map((pattern) => `--dpkgopt=path-exclude=${pattern}`),
    ...INCLUDED.map((pattern) => `--dpkgopt=path-include=${pattern}`),
    ...hooks,
  ]
}

/** This machine's own mirrors where it runs the same Debian, since those are known to be reachable; else Debian's. */
async function debianSources(release) {
  const mirrors = process.env.DEBIAN_MIRROR
    ? [[process.env.DEBIAN_MIRROR, release]]
    : await hostMirrors(release)
  return mirrors.map(([url, suite]) => `deb [signed-by=${KEYRING}] ${url} ${suite} main`)
}

async function hostMirrors(release) {
  const suites = [release, `${release}-updates`, `${release}-security`]
  const found = await aptTargets()
  const mirrors = suites.flatMap((suite) => {
    const target = found.find((entry) => entry.suite === suite)
    return target ? [[target.url, suite]] : []
  })
  if (mirrors[0]?.[1] === release) return mirrors
  return [
    ['http://deb.debian.org/debian', release],
    ['http://deb.debian.org/debian', `${release}-updates`],
    ['http://deb.debian.org/debian-security', `${release}-security`],
  ]
}

async function aptTargets() {
  const format = '$(RELEASE) $(REPO_URI) $(COMPONENT)'
  const lines = await linesOf('apt-get', ['indextargets', '--format', format, 'Created-By: Packages'])
  return lines.flatMap((line) => {
    const [suite, url, component] = line.split(' ')
    return component === 'main' && /^https?:/.test(url) ? [{ suite, url }] : []
  })
}

async function proxyOptions() {
  const lines = await linesOf('apt-config', ['dump', 'Acquire::http::Proxy', 'Acquire::https::Proxy'])
  return lines.filter((line) => /^Acquire::https?::Proxy ".+";$/.test(line)).map((line) => `--aptopt=${line}`)
}

/** What a program prints; nothing where it is missing or fails. */
async function linesOf(program, args) {
  try {
    const { stdout } = await promisify(execFile)(program, args)
    return stdout.split('\n').filter((line) => line !== '')
  } catch {
    return []
  }
}

async function runMmdebstrap(args) {
  if (!existsSync(KEYRING)) throw new RootfsError('TOOL_MISSING', `${KEYRING} is missing.`, INSTALL_HINT)
  const child = spawn('mmdebstrap', args, { stdio: ['ignore', 'ignore', 'pipe'] })
  let output = ''
  child.stderr.setEncoding('utf8').on('data', (text) => {
    output = (output + text).slice(-4_000)
  })
  const exitCode = await new Promise((resolve, reject) => {
    child.on('error', (error) =>
      reject(
        error.code === 'ENOENT'
          ? new RootfsError('TOOL_MISSING', 'mmdebstrap is missing.', INSTALL_HINT)
          : error,
      ),
    )
    child.on('close', resolve)
  })
  if (exitCode !== 0) {
    const hint = process.getuid() === 0 ? 'See the lines above.' : 'It may need root: try it with sudo.'
    throw new RootfsError('FAILED', `mmdebstrap ended with ${exitCode}:\n${output.trim()}`, hint)
  }
}
