// npm start: from a fresh clone to a service that answers.
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { prepare, ROOT, SetupError } from './setup.mjs'

const WORKER = { folder: join(ROOT, 'workers/test/loading-worker'), image: 'loading-worker:latest' }

async function main() {
  await prepare()
  const [bundle] = await Promise.all([buildService(), prepareFirstWorker()])
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

/** Where a Docker engine answers and has no image of the example worker: builds it, so that the first task works. */
async function prepareFirstWorker() {
  if (process.env.RUNNER === 'process' || !mayHaveDocker()) return
  const { connectEngine, hasImage } = await import('./base-images/engine.mjs')
  let docker
  try {
    docker = await connectEngine({ timeoutMs: 1_000 })
  } catch {
    // The service says what it runs with, and waits for an engine that is away.
    return
  }
  try {
    if (await hasImage(docker, WORKER.image)) return
    console.log(`First start: building the example worker's image, ${WORKER.image}`)
    const { ensureWorkerImage } = await import('./base-images/images.mjs')
    await ensureWorkerImage(docker, { ...WORKER, log: (line) => console.log(`  ${line}`) })
  } catch (error) {
    const reason = [error.message, error.hint].filter(Boolean).join(' ').split('\n')[0]
    console.error(
      `${WORKER.image} could not be built: ${reason} To do it by hand: npm run base-images && workers/test/loading-worker/build.sh`,
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
