import {
  type GpuClientError,
  graphqlError,
  type GraphqlError,
  lasting,
  passing,
  statusError,
} from './error.ts'

/** The bytes of a file: what browsers and Node.js have them in. A stream of Node.js is an AsyncIterable. */
export type UploadBody = Blob | ReadableStream<Uint8Array> | AsyncIterable<Uint8Array> | Uint8Array

export interface UploadOptions {
  /** One file name, without folders. */
  readonly name: string
  /** Absent: a Blob's own, else `application/octet-stream`. */
  readonly mediaType?: string | undefined
  readonly signal?: AbortSignal | undefined
}

/** A file that the service has, for tasks to be given it. */
export interface Upload {
  /** What `files` of a submission take. */
  readonly id: string
  readonly name: string
  readonly mediaType: string
  readonly bytes: number
  /** SHA-256 of its content, lower-case hex. */
  readonly sha256: string
  /** When it is removed where no task has it by then. */
  readonly expiresAt: string
}

/**
 * Sends a file, piece by piece where it comes so. Not tried again: what has been read of a stream is gone.
 * @throws GpuClientError with the service's code, such as UPLOAD_TOO_LARGE, UNSUPPORTED_TYPE or NO_ROOM; the signal's reason.
 */
export async function upload(
  service: {
    readonly url: string
    readonly fetch: typeof fetch
    readonly headers: () => Promise<Record<string, string>>
  },
  body: UploadBody,
  { name, mediaType, signal }: UploadOptions,
): Promise<Upload> {
  const url = new URL('uploads', service.url)
  url.searchParams.set('name', name)
  const ownType = body instanceof Blob && body.type !== '' ? body.type : 'application/octet-stream'
  const headers = { ...(await service.headers()), 'content-type': mediaType ?? ownType }
  const init: RequestInit & { readonly duplex: 'half' } = {
    method: 'POST',
    headers,
    body: bodyOf(body),
    // Where a body is a stream it has to be said that the answer comes after it.
    duplex: 'half',
    ...(signal !== undefined && { signal }),
  }
  const response = await service.fetch(url, init).catch((error: unknown) => {
    signal?.throwIfAborted()
    throw passing('UNREACHABLE', `${url.href} could not be reached, or the connection broke off.`, error)
  })
  const answer: unknown = await response.json().catch(() => null)
  if (response.status === 201) return expectUpload(answer)
  throw refusalOf(response.status, answer)
}

function bodyOf(body: UploadBody): BodyInit {
  if (body instanceof Blob || body instanceof ReadableStream) return body
  if (body instanceof Uint8Array) return new Blob([body.slice()])
  const chunks = body[Symbol.asyncIterator]()
  return new ReadableStream<Uint8Array>({
    async pull(controller) {
      const next = await chunks.next()
      if (next.done === true) controller.close()
      else controller.enqueue(next.value)
    },
    async cancel() {
      await chunks.return?.()
    },
  })
}

function expectUpload(answer: unknown): Upload {
  if (typeof answer === 'object' && answer !== null && 'id' in answer && typeof answer.id === 'string')
    return answer as Upload
  throw lasting('BAD_RESPONSE', 'What answers does not speak of an upload.')
}

function refusalOf(status: number, answer: unknown): GpuClientError {
  if (typeof answer !== 'object' || answer === null || !('errors' in answer)) return statusError(status)
  const { errors } = answer
  return Array.isArray(errors) ? graphqlError(errors as readonly GraphqlError[]) : statusError(status)
}
