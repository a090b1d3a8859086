import { KitError } from './kit-error.ts'
import { shellWord } from './packages.ts'
import { localImage, saveImage, type SavedImage } from './saved-image.ts'
import { type EngineImage, isSameImage, layersThere, serverImages } from './server-images.ts'
import type { Server } from './server.ts'

export interface Deployment {
  /** What became of the image: it was there, it got a further name there, or it was brought. */
  readonly status: 'there' | 'named' | 'brought'
  /** What was sent of the image or of the folder that it is built from. */
  readonly sentBytes: number
}

/**
 * Brings an image of the engine here to a server's engine: nothing where it is there, and else only the layers that are missing. It is the same
 * afterwards, by digest. After a cut the next call goes on.
 * @param folder Where files may be put there; relative to the home folder.
 */
export async function deployImage(server: Server, image: string, folder: string): Promise<Deployment> {
  const here = await localImage(image)
  const { architecture, images } = await serverImages(server)
  if (architecture !== here.architecture)
    throw new KitError(
      `${image} is for ${here.architecture}, and ${server.host} runs ${architecture}: build it there (--build-there)`,
    )
  const same = images.filter((there) => isSameImage(there, here))
  if (same.some(({ tags }) => tags.includes(image))) return { status: 'there', sentBytes: 0 }
  if (same[0] !== undefined) {
    await server.run(`docker tag ${shellWord(same[0].id)} ${shellWord(image)}`)
    return { status: 'named', sentBytes: 0 }
  }
  const saved = await saveImage(image, here.id)
  const sentBytes = await bring(server, image, here, saved, layersThere(here, images), `${folder}/.images`)
  await saved[Symbol.asyncDispose]()
  return { status: 'brought', sentBytes }
}

async function bring(
  server: Server,
  image: string,
  here: EngineImage,
  { folder: from, layerFiles }: SavedImage,
  known: number,
  images: string,
): Promise<number> {
  const to = `${images}/${here.id.replace(':', '-')}`
  await server.run(`mkdir -p -m 700 ${shellWord(images)}`)
  const missing = new Set(layerFiles.slice(known))
  const exclude = layerFiles.slice(0, known).filter((file) => !missing.has(file))
  const load = async (): Promise<string | null> => {
    try {
      await server.run(`tar -c -C ${shellWord(to)} --exclude=.partial . | docker load`)
      const there = (await serverImages(server)).images.find(({ tags }) => tags.includes(image))
      return there !== undefined && isSameImage(there, here) ? null : 'its digest is another one there'
    } catch (error) {
      if (!(error instanceof KitError)) throw error
      return error.message
    }
  }
  let sentBytes = await server.copy(from, to, { exclude: exclude.map((file) => `/${file}`), prune: false })
  let problem = await load()
  if (problem !== null && exclude.length > 0) {
    // Some engines want to see also the layers that they have.
    sentBytes += await server.copy(from, to, { exclude: [], prune: false })
    problem = await load()
  }
  if (problem !== null) throw new KitError(`${image} could not be loaded on ${server.host}: ${problem}`)
  await server.run(`rm -rf ${shellWord(to)}`)
  return sentBytes
}
