import type { ArtifactId } from './ids.ts'

/** Where an artifact's bytes come from. */
export type ArtifactSource =
  /** A file that the worker named, relative to its output folder or absolute inside it. */
  | {
      readonly kind: 'file'
      readonly folder: { readonly host: string; readonly worker: string }
      readonly path: string
    }
  | { readonly kind: 'data'; /** base64 */ readonly data: string }

export type Taken =
  | { readonly status: 'taken'; readonly bytes: number; /** Lower-case hex. */ readonly sha256: string }
  /** There is no such file, it is no plain file, or it lies outside of the output folder. */
  | { readonly status: 'refused'; readonly message: string }

/** Keeps the bytes of artifacts, outside of the database. */
export interface ArtifactFiles {
  /** Copies the bytes in, streaming. Taking the same id again replaces it. */
  take(id: ArtifactId, source: ArtifactSource): Promise<Taken>
  remove(id: ArtifactId): Promise<void>
  /**
   * Makes the artifact's file be found at `path` too: by a second name, so that it takes its room once only, or, where that cannot be had, as a
   * copy. Everybody who reaches the path may read it. Harmless where there is a file already.
   */
  place(id: ArtifactId, path: string): Promise<void>
  /** Those of the artifacts that have no file. */
  missing(ids: readonly ArtifactId[]): Promise<readonly ArtifactId[]>
  /**
   * Removes the files that an earlier process took and that nobody came to announce: those that `known` does not give of the ids that it
   * is asked about. What this process has taken is never among them. To be called once; gives how many there were. Ends where `signal` is
   * aborted.
   */
  removeStrays(
    known: (ids: readonly ArtifactId[]) => Promise<ReadonlySet<ArtifactId>>,
    signal: AbortSignal,
  ): Promise<number>
}
