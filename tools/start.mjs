// npm start: from a fresh clone to a service that answers.
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { prepare, ROOT, SetupError } from './setup.mjs'

const WORKERS = ['loading-worker', 'session-worker'].map((name) => ({
  name,
  folder: join(ROOT, 'workers/test', name),
  image: `${name}:latest`,
}))

async function main() {
  await prepare()
  const [bundle] = await Promise.all([buildService(), prepareExampleWorkers()])
  process.setSourceMapsEnabled(true)
  // GraphQL.js checks every value twice over otherwise.
  process.env.NODE_ENV ??= 'production'
  // In this process, not in a child: signals, exit code and a kill reach the service itself.
  await import(pathToFileURL(bundle).href)
}

async function buildService() {
  const [{ buildApi }, { stop }] = await Promise.all([import('./build-api.mjs'), import('esbuild')])
  const bundle = await buildApi()
  // Else its process would stay as long as the service.
  await stop()
  return bundle
}

/** Where a Docker engine answers and has no images of the example workers: builds them, so that the first tasks work. */
async function prepareExampleWorkers() {
  if (process.env.RUNNER === 'process' || !mayHaveDocker()) return
  const { connectEngine } = await import('./base-images/engine.mjs')
  let docker
  try {
    docker = await connectEngine({ timeoutMs: 1_000 })
  } catch {
    // The service says what it runs with, and waits for an engine that is away.
    return
  }
  for (const worker of WORKERS) await prepareWorker(docker, worker)
}

async function prepareWorker(docker, { name, folder, image }) {
  try {
    const { hasImage } = await import('./base-images/engine.mjs')
    if (await hasImage(docker, image)) return
    console.log(`First start: building the image of an example worker, ${image}`)
    const { ensureWorkerImage } = await import('./base-images/images.mjs')
    await ensureWorkerImage(docker, { folder, image, log: (line) => console.log(`  ${line}`) })
  } catch (error) {
    const reason = [error.message, error.hint].filter(Boolean).join(' ').split('\n')[0]
    console.error(
      `${image} could not be built: ${reason} To do it by hand: npm run base-images && workers/test/${name}/build.sh`,
    )
  }
}

function mayHaveDocker() {
  return Boolean(process.env.DOCKER_HOST) || existsSync('/var/run/docker.sock') || homeSocketExists()
}

function homeSocketExists() {
  return existsSync(join(process.env.HOME ?? '/', '.docker/run/docker.sock'))
}

main().catch((error) => {
  if (!(error instanceof SetupError)) throw error
  console.error(error.message)
  process.exitCode = 1
})
