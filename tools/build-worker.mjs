// npm run build-worker -- CATEGORY/NAME: makes the image of a worker package by its build.sh, after pulling or making what it is built from.
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { kitTool, onlyArgument } from './kit-tool.mjs'
import { ROOT } from './setup.mjs'

const USAGE = 'npm run build-worker -- CATEGORY/NAME'

await kitTool({ usage: USAGE, options: {} }, async (kit, { positionals }) => {
  const { folder, image } = await kit.openPackage(ROOT, onlyArgument(positionals, 'a worker package'))
  const [{ connectEngine, imageBytes }, { ensureBaseImagesOf }, { megabytes }] = await Promise.all([
    import('./base-images/engine.mjs'),
    import('./base-images/images.mjs'),
    import('./base-images/rootfs.mjs'),
  ])
  const docker = await connectEngine()
  await ensureBaseImagesOf(docker, folder, (line) => console.log(line))
  const { status, error } = spawnSync(join(folder, 'build.sh'), {
    cwd: folder,
    stdio: ['ignore', 'inherit', 'inherit'],
  })
  if (status !== 0)
    throw new kit.KitError(`build.sh has failed: ${error?.message ?? `see above (exit code ${status})`}`)
  const bytes = await imageBytes(docker, image)
  if (bytes === null) throw new kit.KitError(`build.sh has not made ${image}, which worker.yaml names`)
  console.log(`${image}: ${megabytes(bytes)}`)
})
