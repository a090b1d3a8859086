// npm run register-worker -- CATEGORY/NAME: puts the presets of a worker package into the presets file of the service.
import { kitTool, onlyArgument, readSettings } from './kit-tool.mjs'
import { ROOT } from './setup.mjs'

const USAGE =
  'npm run register-worker -- CATEGORY/NAME\n  The presets file is the one of the service with these settings (PRESETS_FILE).'

await kitTool({ usage: USAGE, options: {} }, async (kit, { positionals }) => {
  const found = await kit.openPackage(ROOT, onlyArgument(positionals, 'a worker package'))
  const { presetsFile: file, volumeRoots, secretRoots, secretEnvPrefix } = await readSettings()
  const registered = await kit.registerWorker(found, { file, volumeRoots, secretRoots, secretEnvPrefix })
  for (const line of kit.insertionText(registered, file)) console.log(line)
})
