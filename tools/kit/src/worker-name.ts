import { KitError } from './kit-error.ts'

/** Where a worker package lies: `workers/<category>/<name>`. */
export interface WorkerName {
  readonly category: string
  readonly name: string
}

/** Folders, images and packages of npm are called by it. */
const WORD = '[a-z][a-z0-9]*(?:-[a-z0-9]+)*'
const NAME = new RegExp(`^(?:workers/)?(${WORD})/(${WORD})/?$`)

/** Reads `<category>/<name>`; a shell may have completed it to `workers/<category>/<name>/`. */
export function parseWorkerName(text: string): WorkerName {
  const [, category, name] = NAME.exec(text) ?? []
  if (category === undefined || name === undefined)
    throw new KitError(
      `A worker is named <category>/<name>, such as text/my-worker, in lower case with digits and hyphens; not ${JSON.stringify(text)}`,
    )
  return { category, name }
}

export function workerFolder({ category, name }: WorkerName): string {
  return `workers/${category}/${name}`
}
