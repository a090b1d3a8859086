import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { workerFolder, type WorkerName } from './worker-name.ts'

export type Language = 'python' | 'typescript'

export interface ScaffoldFile {
  /** In the package's folder. */
  readonly path: string
  readonly content: string
  readonly mode: number
}

const TEMPLATES = join(import.meta.dirname, '../templates')
const PYTHON_SDK = join(import.meta.dirname, '../../../workers/sdk/python/gpu_service_worker.py')
const SUFFIX = '.template'

/** The files of a new worker package that runs, builds and passes its test as it stands; nothing is written. */
export async function workerFiles(
  worker: WorkerName,
  language: Language,
): Promise<{ readonly folder: string; readonly files: readonly ScaffoldFile[] }> {
  const words = wordsOf(worker, language)
  const files = [...(await filled('common', words)), ...(await filled(language, words))]
  if (language === 'python')
    files.push({
      path: 'gpu_service_worker.py',
      content: await readFile(PYTHON_SDK, 'utf8'),
      mode: 0o644,
    })
  return { folder: workerFolder(worker), files }
}

async function filled(
  templates: string,
  words: Readonly<Record<string, string>>,
): Promise<readonly ScaffoldFile[]> {
  const folder = join(TEMPLATES, templates)
  const paths = (await readdir(folder, { recursive: true })).filter((path) => path.endsWith(SUFFIX)).sort()
  return Promise.all(
    paths.map(async (path) => ({
      path: path.slice(0, -SUFFIX.length),
      content: fill(await readFile(join(folder, path), 'utf8'), words),
      mode: path.startsWith('build.sh') ? 0o755 : 0o644,
    })),
  )
}

function fill(template: string, words: Readonly<Record<string, string>>): string {
  return template.replaceAll(/\{\{([a-zA-Z]+)\}\}/g, (whole, word: string) => words[word] ?? whole)
}

function wordsOf({ category, name }: WorkerName, language: Language): Readonly<Record<string, string>> {
  const model = name.replace(/-worker$/, '')
  const common = { category, name, language, model, image: `${name}:latest` }
  if (language === 'python')
    return {
      ...common,
      source: 'worker.py',
      localCommand: "['python3', 'worker.py']",
      imageCommand: "['python', '/app/worker.py']",
      bundle: '',
      devDependencies: '    "@gpu-service/conformance": "*"',
    }
  return {
    ...common,
    source: 'src/worker.ts',
    localCommand: "['node', 'dist/worker.js']",
    imageCommand: "['node', '/app/worker.js']",
    // A folder that was copied to a server brings dist along.
    bundle: '[ ! -e ../../../tools/bundle-worker.mjs ] || node ../../../tools/bundle-worker.mjs .\n',
    devDependencies: '    "@gpu-service/conformance": "*",\n    "@gpu-service/worker": "*"',
  }
}
