#!/usr/bin/env node
import { parseArgs } from 'node:util'
import { connectEngine, engineName, EngineError } from './engine.mjs'
import { makeBaseImage } from './images.mjs'
import { BASE_IMAGES } from './recipes.mjs'
import { RootfsError } from './rootfs.mjs'

const images = Object.keys(BASE_IMAGES)
const usual = images.filter((image) => !BASE_IMAGES[image].onRequest)

const USAGE = `Makes the base images of the workers and of the service from Debian packages, for a Docker engine that can reach no image registry.

  npm run base-images                     makes those that are missing: ${usual.join(', ')}
  npm run base-images -- IMAGE            makes only this one: ${images.join(', ')}
  npm run base-images -- --force [IMAGE]  makes it again from today's packages and replaces the one that is there

The engine is the one at DOCKER_HOST, else at Docker's default socket. Packages come from this machine's own Debian mirrors
where it runs the same Debian, from DEBIAN_MIRROR where that is set, else from deb.debian.org.`

async function main() {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { force: { type: 'boolean', default: false }, help: { type: 'boolean', short: 'h' } },
  })
  if (values.help) {
    console.log(USAGE)
    return
  }
  const unknown = positionals.find((image) => !Object.hasOwn(BASE_IMAGES, image))
  if (unknown !== undefined) throw new Refusal(`There is no recipe for ${unknown}.\n\n${USAGE}`)

  const docker = await connectEngine()
  console.log(`Docker engine: ${engineName()}`)
  for (const image of positionals.length > 0 ? positionals : usual) {
    await makeBaseImage(docker, image, { replace: values.force, log: (line) => console.log(line) })
  }
}

class Refusal extends Error {}

try {
  await main()
} catch (error) {
  if (error instanceof RootfsError) console.error(`${error.message} ${error.hint}`)
  else if (
    error instanceof Refusal ||
    error instanceof EngineError ||
    error.code?.startsWith('ERR_PARSE_ARGS')
  ) {
    console.error(error.message)
  } else throw error
  process.exitCode = 1
}
