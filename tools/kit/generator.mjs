// npx nx g @gpu-service/kit:worker <category>/<name> [--language python|typescript]
import { spawnSync } from 'node:child_process'
import { tsImport } from 'tsx/esm/api'

/** @param {import('nx/src/generators/tree.js').Tree} tree */
export default async function generateWorker(tree, { name, language }) {
  /** @type {typeof import('./src/index.ts')} */
  const { parseWorkerName, workerFiles } = await tsImport('./src/index.ts', import.meta.url)
  const worker = parseWorkerName(name)
  const { folder, files } = await workerFiles(worker, language)
  if (tree.exists(folder)) throw new Error(`${folder} is there already`)
  const taken = `node_modules/@gpu-service/${worker.name}`
  if (tree.exists(`${taken}/package.json`))
    throw new Error(`A package is called @gpu-service/${worker.name} already: take another name`)
  for (const { path, content, mode } of files) tree.write(`${folder}/${path}`, content, { mode })
  // The new package gets its place in package-lock.json, in node_modules and in the root's tsconfig.json.
  return () => {
    run(tree.root, 'npm', ['install', '--no-audit', '--no-fund', '--loglevel=error'])
    run(tree.root, 'npx', ['nx', 'sync'])
  }
}

function run(cwd, program, args) {
  const { status } = spawnSync(program, args, { cwd, stdio: ['ignore', 2, 2] })
  if (status !== 0) throw new Error(`${program} ${args.join(' ')} has failed: see above`)
}
