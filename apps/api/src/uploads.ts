import type { ArtifactFolder } from '@gpu-service/artifacts'
import type { Actor, ArtifactId, TaskStore, Upload } from '@gpu-service/tasks'
import type { UploadLimits } from './config.ts'

/** What a client says of a file before it sends it. */
export interface AnnouncedUpload {
  readonly owner: string
  readonly name: string
  /** Without parameters, lower case. */
  readonly mediaType: string
  /** `null`: it does not say. */
  readonly bytes: number | null
  /** SHA-256 in lower-case hex; `null`: it does not say. */
  readonly sha256: string | null
}

export type UploadRefusal =
  | 'BAD_REQUEST'
  | 'UNAUTHENTICATED'
  | 'FORBIDDEN'
  /** The bytes are not those that were announced. */
  | 'DIGEST_MISMATCH'
  | 'LENGTH_REQUIRED'
  | 'UPLOAD_TOO_LARGE'
  | 'UNSUPPORTED_TYPE'
  /** The client has hung up before all of it had come. */
  | 'UPLOAD_CUT'
  /** The client sends nothing, or next to nothing, any more. */
  | 'UPLOAD_STALLED'
  /** Of the disk, or of the owner's files that no task has. */
  | 'NO_ROOM'

/** Why a file is not taken; thrown too by those who give its bytes. */
export class UploadError extends Error {
  override readonly name = 'UploadError'
  readonly code: UploadRefusal
  constructor(code: UploadRefusal, message: string, options?: ErrorOptions) {
    super(message, options)
    this.code = code
  }
}

/** Takes files in that clients give to tasks. */
export interface UploadIntake {
  /**
   * Keeps a file, durably. Nothing of one that is not taken is left, but an entry of the audit log.
   * @throws UploadError, and what `chunks` throws.
   */
  receive(announced: AnnouncedUpload, chunks: AsyncIterable<Buffer>, by: Actor): Promise<Upload>
  /** Writes down that something was refused before it came to `receive`. */
  refused(announced: Partial<AnnouncedUpload>, code: UploadRefusal, by: Actor): Promise<void>
}

export interface UploadIntakeOptions {
  readonly store: Pick<TaskStore, 'addUpload' | 'unusedUploadBytes' | 'sync' | 'recordAudit'>
  readonly files: Pick<ArtifactFolder, 'receive' | 'remove'>
  readonly limits: UploadLimits
  /** How many bytes more may be taken in. */
  readonly room: () => Promise<number>
  readonly newId: () => string
  readonly now: () => number
}

/** A file that does not say how large it is takes room step by step: twice as much each time, between these. */
const FIRST_BYTES = 1024 ** 2
const STEP_BYTES = 64 * 1024 ** 2

/** What a file under way may take, and has taken. */
interface Place {
  readonly owner: string
  held: number
  written: number
}

export function createUploadIntake(options: UploadIntakeOptions): UploadIntake {
  const { store, files, limits, newId, now } = options
  const places = new Set<Place>()

  /** Takes room for so many bytes more. Taken first and asked afterwards: of two that come at once each sees the other. */
  async function hold(place: Place, bytes: number): Promise<void> {
    place.held += bytes
    const [unused, room] = await Promise.all([store.unusedUploadBytes(place.owner), options.room()])
    const all = [...places]
    const own = all.filter(({ owner }) => owner === place.owner).reduce((sum, { held }) => sum + held, 0)
    const { maxUnusedBytes } = limits
    if (maxUnusedBytes !== null && unused + own > maxUnusedBytes)
      throw new UploadError(
        'NO_ROOM',
        `All your files together that no task has may have ${maxUnusedBytes} bytes (UPLOADS_UNUSED_MAX_GB). Use some, or wait until they expire.`,
      )
    if (all.reduce((sum, { held, written }) => sum + held - written, 0) > room)
      throw new UploadError('NO_ROOM', "The service's disk is nearly full.")
  }

  /** The chunks, as long as there is room for them. */
  async function* bounded(chunks: AsyncIterable<Buffer>, place: Place): AsyncGenerator<Buffer, void> {
    for await (const chunk of chunks) {
      expectSize(place.written + chunk.length)
      if (place.written + chunk.length > place.held)
        await hold(place, Math.min(Math.max(place.held, FIRST_BYTES), STEP_BYTES))
      place.written += chunk.length
      yield chunk
    }
  }

  function expectSize(bytes: number): void {
    if (limits.maxBytes !== null && bytes > limits.maxBytes)
      throw new UploadError('UPLOAD_TOO_LARGE', `A file may have ${limits.maxBytes} bytes (UPLOAD_MAX_GB).`)
  }

  function expectType(mediaType: string): void {
    const [kind = ''] = mediaType.split('/', 1)
    if ([mediaType, `${kind}/*`, '*/*'].some((type) => limits.types.includes(type))) return
    const message = `Files of the type ${JSON.stringify(mediaType)} are not taken; the Content-Type must be one of: ${limits.types.join(', ')}.`
    throw new UploadError('UNSUPPORTED_TYPE', message)
  }

  async function receive(
    announced: AnnouncedUpload,
    chunks: AsyncIterable<Buffer>,
    by: Actor,
  ): Promise<Upload> {
    const { owner, name, mediaType } = announced
    expectType(mediaType)
    expectSize(announced.bytes ?? 0)
    const place: Place = { owner, held: 0, written: 0 }
    places.add(place)
    try {
      await hold(place, announced.bytes ?? 0)
      const id = newId() as ArtifactId
      const { bytes, sha256 } = await files.receive(id, bounded(chunks, place))
      try {
        if (announced.sha256 !== null && announced.sha256 !== sha256)
          throw new UploadError(
            'DIGEST_MISMATCH',
            `What came has the SHA-256 ${sha256}, not the announced one.`,
          )
        const createdAt = now()
        const expiresAt = createdAt + limits.keepMs
        const upload = { id, owner, name, mediaType, bytes, sha256, createdAt, expiresAt }
        await store.addUpload(upload, by)
        // Who hears that a file was taken must find it whatever happens, a loss of power included.
        await store.sync()
        return upload
      } catch (error) {
        // A failure of the last step may leave a row without a file, which the next start removes.
        await files.remove(id)
        throw error
      }
    } catch (error) {
      const isFull = error instanceof Error && 'code' in error && error.code === 'ENOSPC'
      throw isFull ? new UploadError('NO_ROOM', "The service's disk is full.", { cause: error }) : error
    } finally {
      places.delete(place)
    }
  }

  async function record(announced: Partial<AnnouncedUpload>, result: string, actor: Actor): Promise<void> {
    const { owner, mediaType } = announced
    const details = { owner, mediaType }
    await store.recordAudit([
      {
        ...{ actor, action: 'upload.create', target: { kind: 'upload', id: null }, result },
        ...{ status: null, reason: null },
        details: Object.fromEntries(
          Object.entries(details).flatMap(([key, text]) => (text === undefined ? [] : [[key, text]])),
        ),
      },
    ])
  }

  return {
    async receive(announced, chunks, by) {
      try {
        return await receive(announced, chunks, by)
      } catch (error) {
        // Where the database is what failed, this fails too, and what is told is the first failure.
        const code = error instanceof UploadError ? error.code : 'FAILED'
        await record(announced, code, by).catch(() => undefined)
        throw error
      }
    },
    refused: record,
  }
}
