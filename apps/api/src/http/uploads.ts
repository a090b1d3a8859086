import { Readable } from 'node:stream'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { actorOf, isAtLeast, type Principal, problemOfFileName, type Upload } from '@gpu-service/tasks'
import { type AnnouncedUpload, UploadError, type UploadIntake, type UploadRefusal } from '../uploads.ts'
import { bodyOf, discardBody } from './body.ts'
import { callerOf } from './caller.ts'

export interface UploadOptions {
  readonly intake: UploadIntake
  /** How long a client may send nothing, in milliseconds. */
  readonly stallMs: number
}

const STATUS: Readonly<Record<UploadRefusal, number>> = {
  BAD_REQUEST: 400,
  DIGEST_MISMATCH: 400,
  UNAUTHENTICATED: 401,
  FORBIDDEN: 403,
  UPLOAD_CUT: 400,
  UPLOAD_STALLED: 408,
  LENGTH_REQUIRED: 411,
  UPLOAD_TOO_LARGE: 413,
  UNSUPPORTED_TYPE: 415,
  NO_ROOM: 507,
}

/** How long a client that goes on sending what was refused is listened to. */
const LINGER_MS = 2_000

/**
 * Serves `POST /uploads?name=…`: the body is the file, as it is, in any length. A page of another origin has been refused before, as everywhere:
 * whatever its body's type, a POST of a page has an Origin.
 */
export function serveUploads(app: FastifyInstance, { intake, stallMs }: UploadOptions): void {
  void app.register((scope, _options, done) => {
    // Whatever it is, it is not read but by the handler.
    scope.removeAllContentTypeParsers()
    scope.addContentTypeParser('*', (_request, _payload, parsed) => {
      parsed(null)
    })
    scope.post('/uploads', { config: { readsBody: true } }, answer)
    done()
  })

  async function answer(request: FastifyRequest, reply: FastifyReply): Promise<FastifyReply> {
    const upload = await receivedFrom(request)
    if (!(upload instanceof UploadError))
      return reply
        .code(201)
        .type('application/json; charset=utf-8')
        .send(JSON.stringify(shown(upload)))
    // Who has hung up hears nothing.
    return upload.code === 'UPLOAD_CUT' ? reply.hijack() : refuse(request, reply, upload)
  }

  async function receivedFrom(request: FastifyRequest): Promise<Upload | UploadError> {
    const { principal, address, ...caller } = callerOf(request)
    const by = actorOf(principal, address)
    using hold = caller.hold()
    const announced = announcementOf(request, principal)
    if (announced instanceof UploadError) {
      await intake.refused({ owner: principal.owner }, announced.code, by)
      return announced
    }
    try {
      return await intake.receive(announced, bodyOf(request.raw, { stallMs, signal: hold.ended }), by)
    } catch (error) {
      if (error instanceof UploadError) return error
      throw error
    }
  }
}

/** What a request says of its body, or why that is not to be read. */
function announcementOf(
  { headers, query }: FastifyRequest,
  principal: Principal,
): AnnouncedUpload | UploadError {
  const { owner, role, taskId } = principal
  if (!isAtLeast(role, 'submit') || taskId !== null)
    return new UploadError(
      'FORBIDDEN',
      'Who uploads must be one who may submit a task: it needs the role SUBMIT.',
    )
  if (headers['content-length'] === undefined && headers['transfer-encoding'] === undefined)
    return new UploadError(
      'LENGTH_REQUIRED',
      'Content-Length must say how large the file is, or the body be chunked.',
    )
  if (headers['content-encoding'] !== undefined)
    return new UploadError(
      'UNSUPPORTED_TYPE',
      'The body must be the file itself, without a Content-Encoding.',
    )
  const { name } = query as { readonly name?: unknown }
  const problem = typeof name === 'string' ? problemOfFileName(name) : 'must be given once'
  if (typeof name !== 'string' || problem !== null)
    return new UploadError('BAD_REQUEST', `The file's name (?name=…) ${problem}.`)
  const digest = headers['content-digest']?.toString() ?? ''
  const [, sha256 = null] = /(?:^|,)\s*sha-256=:([A-Za-z0-9+/]{43}=):/.exec(digest) ?? []
  if (sha256 === null && digest.includes('sha-256='))
    return new UploadError(
      'BAD_REQUEST',
      'The Content-Digest must be of the form sha-256=:<base64>: (RFC 9530).',
    )
  const [mediaType = ''] = (headers['content-type'] ?? '').toLowerCase().split(';', 1)
  return {
    ...{ owner, name, mediaType: mediaType.trim() },
    bytes: headers['content-length'] === undefined ? null : Number(headers['content-length']),
    sha256: sha256 === null ? null : Buffer.from(sha256, 'base64').toString('hex'),
  }
}

function shown({ id, name, mediaType, bytes, sha256, expiresAt }: Upload) {
  return { id, name, mediaType, bytes, sha256, expiresAt: new Date(expiresAt).toISOString() }
}

/** The connection ends with the answer, but not before the client can have read it. */
function refuse(request: FastifyRequest, reply: FastifyReply, { code, message }: UploadError): FastifyReply {
  const text = JSON.stringify({ errors: [{ message, extensions: { code } }] })
  async function* all(): AsyncGenerator<string, void> {
    yield text
    await discardBody(request.raw, LINGER_MS)
  }
  return reply
    .code(STATUS[code])
    .headers({ connection: 'close', 'content-length': Buffer.byteLength(text) })
    .type('application/json; charset=utf-8')
    .send(Readable.from(all()))
}
