import { type Dirent } from 'node:fs'
import { open, readdir } from 'node:fs/promises'
import { join } from 'node:path'
import type { Logger } from '@gpu-service/tasks'
import { isMap, isScalar, isSeq, LineCounter, type Node, parseDocument, type YAMLMap } from 'yaml'

/** A folder with a manifest (`worker.yaml`): a worker's code and how it is run without Docker. */
export interface WorkerPackage {
  readonly name: string
  readonly image: string
  readonly description: string | null
  /** Absolute path; the local command is run in it. */
  readonly folder: string
  /** `null`: the worker runs in its container only. */
  readonly localCommand: readonly string[] | null
}

export interface WorkerPackages {
  /** The package whose manifest names the image; without a tag, `latest` is meant. Manifests are read anew each time; a broken one is logged and passed over. */
  find(image: string): Promise<WorkerPackage | null>
}

const MANIFEST = 'worker.yaml'
const MAX_MANIFEST_BYTES = 64 * 1024
/** How deep below the workers folder packages may lie, as in `test/loading-worker`. */
const MAX_DEPTH = 4

export function createWorkerPackages(options: { workersDir: string; logger: Logger }): WorkerPackages {
  const { workersDir, logger } = options

  async function* packages(folder: string, depth: number): AsyncGenerator<WorkerPackage> {
    const entries = await entriesOf(folder)
    if (entries.some((entry) => entry.name === MANIFEST)) {
      const manifest = await readWorkerPackage(folder)
      if (typeof manifest === 'string')
        logger.warn({ issue: manifest }, 'A worker manifest is not valid; its package is not used')
      else yield manifest
      return
    }
    if (depth === MAX_DEPTH) return
    for (const { name } of entries.filter((entry) => entry.isDirectory() && isPackageFolder(entry.name))) {
      yield* packages(join(folder, name), depth + 1)
    }
  }

  return {
    async find(image) {
      for await (const found of packages(workersDir, 0)) {
        if (withTag(found.image) === withTag(image)) return found
      }
      return null
    },
  }
}

/** Reads the package in a folder, or says with file, line and column what is wrong with its manifest. Throws where there is none. */
export async function readWorkerPackage(folder: string): Promise<WorkerPackage | string> {
  const file = join(folder, MANIFEST)
  const text = await readStart(file)
  if (text === null) return `${file}: is larger than ${MAX_MANIFEST_BYTES} bytes`
  const lineCounter = new LineCounter()
  const document = parseDocument(text, { lineCounter, prettyErrors: false })
  const at = (offset: number, message: string): string => {
    const { line, col } = lineCounter.linePos(offset)
    return `${file}:${line}:${col}: ${message}`
  }
  const [syntaxError] = document.errors
  if (syntaxError) return at(syntaxError.pos[0], syntaxError.message)

  try {
    // `input` and `output` are JSON Schemas, for those who write presets and read results.
    const root = fieldsOf(document.contents, ['name', 'image', 'description', 'local', 'input', 'output'])
    const local = root.get('local')
    const command = local && fieldsOf(local, ['command']).get('command')
    if (local && !command) throw new ManifestError(local, 'needs a `command`')
    return {
      name: textOf(root.get('name') ?? missing(document.contents, 'name')),
      image: textOf(root.get('image') ?? missing(document.contents, 'image')),
      description: root.has('description') ? textOf(root.get('description')) : null,
      folder,
      localCommand: command ? textsOf(command) : null,
    }
  } catch (error) {
    if (!(error instanceof ManifestError)) throw error
    return at(error.node?.range?.[0] ?? 0, error.message)
  }
}

class ManifestError extends Error {
  override readonly name = 'ManifestError'
  readonly node: Node | null
  constructor(node: Node | null | undefined, message: string) {
    super(message)
    this.node = node ?? null
  }
}

function missing(node: Node | null, key: string): never {
  throw new ManifestError(node, `needs a \`${key}\``)
}

function fieldsOf(node: Node | null, known: readonly string[]): Map<string, Node | null> {
  if (!isMap(node)) throw new ManifestError(node, 'must be a map')
  const fields = new Map<string, Node | null>()
  for (const { key, value } of (node as YAMLMap<Node, Node | null>).items) {
    const name = textOf(key)
    if (!known.includes(name))
      throw new ManifestError(key, `\`${name}\` is not a key here; known are ${known.join(', ')}`)
    fields.set(name, value)
  }
  return fields
}

function textOf(node: Node | null | undefined): string {
  if (isScalar(node) && typeof node.value === 'string' && node.value !== '') return node.value
  throw new ManifestError(node, 'must be a text that is not empty')
}

function textsOf(node: Node): string[] {
  if (!isSeq<Node>(node) || node.items.length === 0) throw new ManifestError(node, 'must be a list of texts')
  const [program, ...rest] = node.items
  return [textOf(program), ...rest.map(argumentOf)]
}

function argumentOf(node: Node): string {
  return isScalar(node) && node.value === '' ? '' : textOf(node)
}

function withTag(image: string): string {
  return /[:@]/.test(image.slice(image.lastIndexOf('/') + 1)) ? image : `${image}:latest`
}

function isPackageFolder(name: string): boolean {
  return !name.startsWith('.') && name !== 'node_modules'
}

async function entriesOf(folder: string): Promise<Dirent[]> {
  try {
    return (await readdir(folder, { withFileTypes: true })).sort((a, b) => (a.name < b.name ? -1 : 1))
  } catch {
    // Not there (yet), or not ours to read: no packages.
    return []
  }
}

async function readStart(path: string): Promise<string | null> {
  await using file = await open(path, 'r')
  const buffer = Buffer.alloc(MAX_MANIFEST_BYTES + 1)
  const { bytesRead } = await file.read(buffer, 0, buffer.length, 0)
  return bytesRead > MAX_MANIFEST_BYTES ? null : buffer.toString('utf8', 0, bytesRead)
}
