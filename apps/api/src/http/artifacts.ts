import { constants } from 'node:fs'
import { open } from 'node:fs/promises'
import type { Readable } from 'node:stream'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import type { Principal } from '@gpu-service/tasks'
import type { Caller } from '../access/authenticator.ts'
import { byteRangeOf } from './byte-range.ts'
import { callerOf } from './caller.ts'
import { sendErrors } from './graphql-request.ts'

/** The file of an artifact, or of an upload, and what is known of it. */
export interface ServedArtifact {
  readonly path: string
  readonly name: string
  readonly mediaType: string
  /** Lower-case hex. */
  readonly sha256: string
}

export interface Artifacts {
  /** `null`: there is none of this id, whatever the text is, that may be seen. */
  open(id: string, principal: Principal): Promise<ServedArtifact | null>
  /** The same for a file that a task was given; `index`: its place among these, from 0. */
  openInput(taskId: string, index: number, principal: Principal): Promise<ServedArtifact | null>
}

/**
 * Serves `/artifacts/:id` and `/tasks/:id/files/:index`, whole or in parts, so that a download goes on where it broke off. Workers and clients
 * decide what is in a file, so a browser is told to save it and never to run, guess or keep it.
 */
export function serveArtifacts(app: FastifyInstance, artifacts: Artifacts): void {
  app.get<{ Params: { id: string } }>('/artifacts/:id', async (request, reply) => {
    const { principal } = callerOf(request)
    return serve(request, reply, await artifacts.open(request.params.id, principal))
  })
  app.get<{ Params: { id: string; index: string } }>('/tasks/:id/files/:index', async (request, reply) => {
    const { id, index } = request.params
    const { principal } = callerOf(request)
    const isPlace = /^(0|[1-9]\d?)$/.test(index)
    return serve(request, reply, isPlace ? await artifacts.openInput(id, Number(index), principal) : null)
  })
}

async function serve(
  request: FastifyRequest,
  reply: FastifyReply,
  artifact: ServedArtifact | null,
): Promise<FastifyReply> {
  if (artifact === null) {
    reply.callNotFound()
    return reply
  }
  const file = await open(artifact.path, constants.O_RDONLY | constants.O_NOFOLLOW)
  const { size } = await file.stat()
  const { range: asked, 'if-range': ifRange } = request.headers
  const etag = `"${artifact.sha256}"`
  // The parts of another file would not fit together.
  const range = ifRange === undefined || ifRange === etag ? byteRangeOf(asked, size) : null
  if (range === 'beyond') {
    await file.close()
    reply.header('content-range', `bytes */${size}`)
    return sendErrors(reply, 416, [{ message: `It has ${size} bytes.`, extensions: { code: 'BAD_REQUEST' } }])
  }
  if (range !== null) reply.code(206).header('content-range', `bytes ${range.start}-${range.end}/${size}`)
  return reply
    .headers({
      'content-type': mediaTypeOf(artifact),
      'content-length': range === null ? size : range.end - range.start + 1,
      'accept-ranges': 'bytes',
      etag,
      'content-disposition': dispositionOf(artifact.name),
      'content-security-policy': "sandbox; default-src 'none'",
      // RFC 9530, so that a client can check what it got.
      'repr-digest': `sha-256=:${Buffer.from(artifact.sha256, 'hex').toString('base64')}:`,
    })
    .send(heldStream(callerOf(request), file.createReadStream(range ?? {})))
}

/** Breaks off when the caller is nobody any more. */
function heldStream(caller: Caller, stream: Readable): Readable {
  const hold = caller.hold()
  hold.ended.addEventListener('abort', () => stream.destroy(new Error('The key is not valid any more.')))
  stream.once('close', () => {
    hold[Symbol.dispose]()
  })
  return stream
}

function mediaTypeOf({ mediaType }: ServedArtifact): string {
  return /^[\w.+-]{1,100}\/[\w.+-]{1,100}$/.test(mediaType) ? mediaType : 'application/octet-stream'
}

/** RFC 6266: a plain name for old clients, the whole one for the others. */
function dispositionOf(name: string): string {
  const plain = name.replace(/[^\w.+ -]/g, '_')
  // Half a surrogate pair cannot be encoded: through bytes it becomes the replacement character.
  const whole = encodeURIComponent(Buffer.from(name).toString()).replace(/['()*]/g, percentEncoded)
  return `attachment; filename="${plain}"; filename*=UTF-8''${whole}`
}

function percentEncoded(char: string): string {
  return `%${char.charCodeAt(0).toString(16).toUpperCase()}`
}
