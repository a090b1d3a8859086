import { spawn } from 'node:child_process'
import { mkdir, readFile, rename, rm } from 'node:fs/promises'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import Docker from 'dockerode'
import { KitError } from './kit-error.ts'
import type { EngineImage } from './server-images.ts'

/** An image of the engine here, as files. */
export interface SavedImage extends AsyncDisposable {
  readonly folder: string
  /** The file of each layer in the folder, the lowest first. */
  readonly layerFiles: readonly string[]
  /** Removes the files. Where nobody does, the next call finds them. */
  [Symbol.asyncDispose](): Promise<void>
}

/** Throws a `KitError` where the engine here does not have it. */
export async function localImage(image: string): Promise<EngineImage & { readonly architecture: string }> {
  try {
    const { Id, Created, RepoTags, RootFS, Architecture } = await new Docker().getImage(image).inspect()
    return {
      ...{ id: Id, created: Created, tags: RepoTags, layers: RootFS.Layers ?? [] },
      architecture: Architecture,
    }
  } catch (error) {
    if (!(error instanceof Error && 'statusCode' in error && error.statusCode === 404)) throw error
    throw new KitError(`There is no image ${image} here: build it first (npm run build-worker)`)
  }
}

/** Does what `docker save` does, unpacked, so that each layer can be sent by itself. */
export async function saveImage(image: string, id: string): Promise<SavedImage> {
  const cache = process.env['XDG_CACHE_HOME'] || join(homedir(), '.cache')
  const folder = join(cache, 'gpu-service/deploy', id.replace(':', '-'))
  const manifest = join(folder, 'manifest.json')
  let read = await readFile(manifest, 'utf8').catch(() => null)
  if (read === null) {
    const draft = `${folder}.${process.pid}`
    await mkdir(draft, { recursive: true })
    try {
      const tar = spawn('tar', ['-x', '-C', draft], { stdio: ['pipe', 'ignore', 'inherit'] })
      const ended = new Promise((resolve) => tar.on('close', resolve))
      await pipeline(await new Docker().getImage(image).get(), tar.stdin)
      if ((await ended) !== 0) throw new KitError(`${image} cannot be unpacked into ${draft}`)
      await rename(draft, folder)
    } finally {
      await rm(draft, { recursive: true, force: true })
    }
    read = await readFile(manifest, 'utf8')
  }
  const [{ Layers: layerFiles }] = JSON.parse(read) as [{ Layers: string[] }]
  return {
    folder,
    layerFiles,
    [Symbol.asyncDispose]: () => rm(folder, { recursive: true, force: true }),
  }
}
