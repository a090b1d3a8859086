import type { WorkerPackage } from '@gpu-service/process-runner'
import { deployFolder } from './deploy-folder.ts'
import { deployImage } from './deploy-image.ts'
import { insertionText } from './preset-insertion.ts'
import { registerThere } from './register-there.ts'
import { openServer, type ServerOptions } from './server.ts'

export interface DeployOptions extends ServerOptions {
  /** Copies the package and builds the image there, instead of bringing the image. */
  readonly buildThere: boolean
  /** Where files are put there; relative to the home folder. */
  readonly folder: string
  /** The presets file there that gets the package's presets; `null`: none does. */
  readonly presetsFile: string | null
  readonly print: (line: string) => void
}

const SAID = {
  there: 'was there already',
  named: 'was there under another name',
  brought: 'is there now',
} as const

/** Makes a server able to run a worker. Throws a `KitError` that says what is in the way. */
export async function deployWorker(worker: WorkerPackage, options: DeployOptions): Promise<void> {
  const { buildThere, folder, presetsFile, print, host } = options
  await using server = await openServer(options)
  const { status, sentBytes } = buildThere
    ? await deployFolder(server, worker, folder)
    : await deployImage(server, worker.image, folder)
  print(`${worker.image} on ${host}: ${SAID[status]} (${(sentBytes / 1e6).toFixed(1)} MB sent)`)
  if (presetsFile === null) return
  const registered = await registerThere(server, worker, presetsFile)
  for (const line of insertionText(registered, `${presetsFile} on ${host}`)) print(line)
}
