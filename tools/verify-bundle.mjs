#!/usr/bin/env node
// npm run verify-bundle -- FILE [--key FINGERPRINT|PUBLIC_KEY_FILE] [--artifacts FOLDER]: tells whether a task's bundle is as the service made it.
// 0: it is, 1: it is not. Needs neither the service nor its database, and no package: this file and Node.js are enough. It shares no code
// with what makes bundles, so that it also holds what the README says of them against what they are.
import { createHash, createPublicKey, hash as hashOf, verify as isSignedBy } from 'node:crypto'
import { createReadStream, existsSync, readFileSync, realpathSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

const PARTS = ['bundle', 'task', 'attempt', 'output', 'artifact', 'event', 'audit']
const FORMAT = 1
const LINE_FEED = 10
/** No line is so long: an event is at most 1 MiB, an output some 16 MiB of text, which JSON may make six times as long. */
const MAX_LINE_BYTES = 256 * 1024 * 1024

/** Something is not as it was made. */
class Fault extends Error {}

export async function verifyBundle(source, { key, artifacts } = {}) {
  try {
    const bundle = await read(source)
    const fingerprint = expectSigned(bundle, key)
    expectParts(bundle)
    expectTask(bundle)
    const { task, events, entries } = bundle
    const lines = [
      `The bundle is whole and as it was signed: task ${task.id}, ${task.status}, ${events} events, ${entries.length} entries of the audit log.`,
      key === undefined
        ? `It is signed with the key ${fingerprint}. Whose that is this tells only with --key: compare it with signingKey { fingerprint } of the service.`
        : `It is signed with the given key, ${fingerprint}.`,
      ...(await expectArtifacts(bundle, artifacts)),
    ]
    return { ok: true, lines }
  } catch (error) {
    if (!(error instanceof Fault)) throw error
    return { ok: false, lines: [`The bundle is NOT as it was made: ${error.message}`] }
  }
}

/** Reads the bundle line by line; what it keeps of it is little. */
async function read(source) {
  const bundle = {
    sums: new Map(PARTS.map((part) => [part, { lines: 0, hash: createHash('sha256') }])),
    manifest: null,
    signature: null,
    ...{ task: null, head: null, attempts: [], artifacts: [], entries: [] },
    ...{ place: 0, events: 0, lastStatus: null },
  }
  for await (const line of linesOf(source)) take(bundle, line)
  if (bundle.signature === null) throw new Fault('its end is missing: it has no signature.')
  return bundle
}

/** Each with its line feed. */
async function* linesOf(source) {
  let pieces = []
  let length = 0
  for await (const chunk of typeof source === 'string' ? createReadStream(source) : [source]) {
    for (let start = 0; start < chunk.length;) {
      const end = chunk.indexOf(LINE_FEED, start)
      const piece = chunk.subarray(start, end === -1 ? chunk.length : end + 1)
      pieces.push(piece)
      length += piece.length
      if (length > MAX_LINE_BYTES) throw new Fault('a line of it is longer than any that is written.')
      start += piece.length
      if (end === -1) continue
      yield Buffer.concat(pieces)
      pieces = []
      length = 0
    }
  }
  if (length > 0) throw new Fault('its last line has no end.')
}

function take(bundle, line) {
  if (bundle.signature !== null) throw new Fault('something stands behind its signature.')
  const value = parsed(line)
  if (bundle.manifest !== null) bundle.signature = { line, ...value.signature }
  else if (value.manifest !== undefined) bundle.manifest = { line, ...value.manifest }
  else takePart(bundle, line, value)
}

function parsed(line) {
  try {
    const value = JSON.parse(line)
    if (typeof value === 'object' && value !== null) return value
  } catch {
    // As below.
  }
  throw new Fault('a line of it is not JSON.')
}

function takePart(bundle, line, { part, value }) {
  const sum = bundle.sums.get(part)
  if (sum === undefined) throw new Fault(`it has a part ${JSON.stringify(part)}, which there is not.`)
  const place = PARTS.indexOf(part)
  if (place < bundle.place) throw new Fault(`its part "${part}" is not where it must be.`)
  bundle.place = place
  sum.lines++
  sum.hash.update(line)
  switch (part) {
    case 'bundle':
      bundle.head = value
      break
    case 'task':
      bundle.task = value
      break
    case 'attempt':
      bundle.attempts.push(value)
      break
    case 'artifact':
      bundle.artifacts.push(value)
      break
    case 'event':
      if (value?.seq !== ++bundle.events) throw new Fault(`event ${bundle.events} is not where it must be.`)
      if (value.body?.type === 'status') bundle.lastStatus = value.body.taskStatus
      break
    case 'audit':
      bundle.entries.push(value)
  }
}

/** The signature fits the manifest, and its line is byte for byte as such a signature is written. Gives the key's fingerprint. */
function expectSigned({ manifest, signature }, key) {
  if (manifest.format !== FORMAT)
    throw new Fault(`it is of the format ${manifest.format}; this program reads ${FORMAT}.`)
  const publicKeyBytes = Buffer.from(String(signature.publicKey), 'base64')
  const value = Buffer.from(String(signature.value), 'base64')
  const fingerprint = `sha256:${hashOf('sha256', publicKeyBytes)}`
  const written = {
    algorithm: 'Ed25519',
    publicKey: publicKeyBytes.toString('base64'),
    fingerprint,
    value: value.toString('base64'),
  }
  const expected = Buffer.from(`${JSON.stringify({ signature: written })}\n`)
  if (!signature.line.equals(expected)) throw new Fault('its signature is not written as a signature is.')
  const publicKey = publicKeyOf({ key: publicKeyBytes, format: 'der', type: 'spki' })
  if (publicKey === null) throw new Fault('its signature names a key that is none.')
  if (!isSignedBy(null, manifest.line, publicKey, value))
    throw new Fault('its signature does not fit its manifest: one of the two was changed.')
  const wanted = key === undefined ? fingerprint : fingerprintOf(key)
  if (wanted !== fingerprint)
    throw new Fault(`it is signed with another key, ${fingerprint}, than the given one, ${wanted}.`)
  return fingerprint
}

function publicKeyOf(source) {
  try {
    const key = createPublicKey(source)
    return key.asymmetricKeyType === 'ed25519' ? key : null
  } catch {
    return null
  }
}

function fingerprintOf(key) {
  if (/^sha256:[0-9a-f]{64}$/.test(key)) return key
  if (!existsSync(key))
    throw new Error(`--key is sha256:<64 hex digits>, or a file; there is no file ${key}.`)
  const publicKey = publicKeyOf(readFileSync(key))
  if (publicKey === null) throw new Error(`${key} is not an Ed25519 public key.`)
  return `sha256:${hashOf('sha256', publicKey.export({ type: 'spki', format: 'der' }))}`
}

function expectParts({ manifest, sums }) {
  const signed = new Map(manifest.parts.map(({ part, ...sum }) => [part, sum]))
  for (const [part, { lines, hash }] of sums) {
    const { lines: count, sha256 } = signed.get(part)
    if (hash.digest('hex') === sha256) continue
    const how = lines === count ? 'was changed' : `has ${lines} lines, and had ${count}`
    throw new Fault(`its part "${part}" ${how}.`)
  }
}

/** What is signed also says the same in all places. */
function expectTask({ head, task, attempts, events, lastStatus, entries }) {
  if (head?.taskId !== task?.id) throw new Fault('it is of another task than it says.')
  if (events !== task.lastSeq) throw new Fault(`it has ${events} events, and the task has ${task.lastSeq}.`)
  if (lastStatus !== task.status)
    throw new Fault(`by its events the task is ${lastStatus}, and not ${task.status}.`)
  if (attempts.length !== task.attempt)
    throw new Fault(`it has ${attempts.length} attempts of ${task.attempt}.`)
  for (const entry of entries)
    if (hashOfEntry(entry) !== entry.hash)
      throw new Fault(`entry ${entry.seq} of the audit log has not its hash.`)
  // Newest first. Of a task that is older than the log, or than what is kept of it, there may be none.
  const status = entries.find((entry) => entry.status !== null)?.status ?? task.status
  if (status !== task.status)
    throw new Fault(`by the audit log the task is ${status}, and not ${task.status}.`)
}

/** As the README says. */
function hashOfEntry({ seq, at, actor, action, target, result, status, reason, details, previousHash }) {
  const sorted = Object.fromEntries(Object.entries(details).sort(([a], [b]) => (a < b ? -1 : 1)))
  const fields = [
    ...[seq, at, actor.kind, actor.id, actor.name, actor.address],
    ...[action, target.kind, target.id, result, status, reason, sorted],
  ]
  return hashOf('sha256', `${previousHash}\n${JSON.stringify(fields)}`)
}

async function expectArtifacts({ artifacts, task }, folder) {
  const files = [
    ...(task.files ?? []).map((file) => ({ ...file, kind: 'File', origin: 'was given' })),
    ...artifacts.map((file) => ({ ...file, kind: 'Artifact', origin: 'made' })),
  ]
  if (folder === undefined)
    return files.length === 0
      ? []
      : [
          `Its ${files.length} artifacts and files were not looked at: --artifacts says in which folder they are.`,
        ]
  const lines = []
  for (const { id, name, bytes, sha256, kind, origin } of files) {
    const path = [join(folder, id), join(folder, name)].find((candidate) => existsSync(candidate))
    if (path === undefined)
      throw new Fault(`there is no file of ${kind.toLowerCase()} ${name} (${id}) in ${folder}.`)
    const hash = createHash('sha256')
    for await (const chunk of createReadStream(path)) hash.update(chunk)
    if (statSync(path).size !== bytes || hash.digest('hex') !== sha256)
      throw new Fault(
        `the file of ${kind.toLowerCase()} ${name} (${path}) is not the one that the task ${origin}.`,
      )
    lines.push(`${kind} ${name} is the file that the task ${origin}.`)
  }
  return lines
}

async function main() {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { key: { type: 'string' }, artifacts: { type: 'string' } },
  })
  const [file, ...more] = positionals
  if (file === undefined || more.length > 0)
    throw new Error(
      'Usage: npm run verify-bundle -- FILE [--key FINGERPRINT|PUBLIC_KEY_FILE] [--artifacts FOLDER]',
    )
  const { ok, lines } = await verifyBundle(file, values)
  for (const line of lines) console.log(line)
  process.exitCode = ok ? 0 : 1
}

if (process.argv[1] !== undefined && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url))
  await main().catch((error) => {
    console.error(error.message)
    process.exitCode = 1
  })
