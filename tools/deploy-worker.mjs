// npm run deploy-worker -- CATEGORY/NAME USER@HOST: brings a worker to a GPU server, over ssh.
import { resolve } from 'node:path'
import { CWD, kitTool, UsageError } from './kit-tool.mjs'
import { ROOT } from './setup.mjs'

const USAGE = `npm run deploy-worker -- CATEGORY/NAME USER@HOST
  Saves its image, copies the layers that are missing there, and loads it there.
  --build-there          copies the package instead, and builds the image there
  --presets FILE         also puts its presets into this presets file there
  --folder FOLDER        where files are put there; workers, in the home folder, unless told
  --ssh-config FILE      for ssh, in the place of ~/.ssh/config`
const options = {
  'build-there': { type: 'boolean', default: false },
  presets: { type: 'string' },
  folder: { type: 'string', default: 'workers' },
  'ssh-config': { type: 'string' },
}

await kitTool({ usage: USAGE, options }, async (kit, { values, positionals, signal }) => {
  const [name, host, ...more] = positionals
  if (host === undefined || more.length > 0) throw new UsageError('Name a worker package and a server.')
  const found = await kit.openPackage(ROOT, name)
  const config = values['ssh-config']
  await kit.deployWorker(found, {
    host,
    sshConfig: config === undefined ? null : resolve(CWD, config),
    buildThere: values['build-there'],
    folder: values.folder,
    presetsFile: values.presets ?? null,
    print: (line) => console.log(line),
    signal,
  })
})
