import type { Artifact } from './event.ts'

/** A file that a client gave, so that tasks can be given it. It never changes. */
export interface Upload extends Artifact {
  /** Whose tasks can be given it. */
  readonly owner: string
  /** Milliseconds since 1970, as all times here. */
  readonly createdAt: number
  /** From then on no new task can be given it, and it is removed where none was. */
  readonly expiresAt: number
}

/** A file that a submission asks for. */
export interface AskedFile {
  readonly uploadId: string
  /** By which the worker is to find it; `null`: as the upload is called. */
  readonly name: string | null
}
