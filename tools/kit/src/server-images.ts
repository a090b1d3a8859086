import { isDeepStrictEqual } from 'node:util'
import type { Server } from './server.ts'

/** An image as an engine has it. */
export interface EngineImage {
  readonly id: string
  readonly created: string
  readonly tags: readonly string[]
  /** The digests of its layers' contents, the lowest first. */
  readonly layers: readonly string[]
}

const FORMAT =
  '{"id":{{json .Id}},"created":{{json .Created}},"tags":{{json .RepoTags}},"layers":{{json .RootFS.Layers}}}'

/** All images of a server's engine, and the architecture that it runs. */
export async function serverImages(
  server: Server,
): Promise<{ readonly architecture: string; readonly images: readonly EngineImage[] }> {
  const said = await server.run(
    `docker version --format '{{.Server.Arch}}' && ids=$(docker image ls --quiet --no-trunc) && ` +
      `if [ -n "$ids" ]; then docker image inspect --format '${FORMAT}' $ids; fi`,
  )
  const [architecture = '', ...lines] = said.trim().split('\n')
  return { architecture, images: lines.map(readImage) }
}

function readImage(line: string): EngineImage {
  const { id, created, tags, layers } = JSON.parse(line) as {
    id: string
    created: string
    tags: string[] | null
    layers: string[] | null
  }
  return { id, created, tags: tags ?? [], layers: layers ?? [] }
}

/** Whether two engines mean the same image: those that keep images with containerd name it by another digest than others do. */
export function isSameImage(one: EngineImage, other: EngineImage): boolean {
  return (
    one.id === other.id ||
    (isDeepStrictEqual(one.layers, other.layers) && Date.parse(one.created) === Date.parse(other.created))
  )
}

/** How many of an image's layers an engine has, counted from the lowest: it keeps each on top of those below it. */
export function layersThere(image: EngineImage, images: readonly EngineImage[]): number {
  return Math.max(0, ...images.map(({ layers }) => commonStart(image.layers, layers)))
}

function commonStart(one: readonly string[], other: readonly string[]): number {
  const differs = one.findIndex((layer, index) => layer !== other[index])
  return differs === -1 ? one.length : differs
}
