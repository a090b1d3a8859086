import { isOf } from '../access.ts'
import type { Clock } from '../clock.ts'
import type { Artifact } from '../event.ts'
import type { ArtifactId } from '../ids.ts'
import type { InputIssue } from '../presets.ts'
import type { SubmitRequest } from '../dispatcher.ts'
import type { TaskStore } from '../store.ts'
import type { Upload } from '../upload.ts'

export type FoundFiles =
  | { readonly status: 'found'; readonly files: readonly Artifact[] }
  | { readonly status: 'invalid'; readonly issues: readonly InputIssue[] }

/** What is said of an upload that is not there, or that is not for who asks. */
export function unknownUploadText(id: string): string {
  return `is no upload of yours: ${JSON.stringify(id)}`
}

/**
 * The files that a request asks for, as its task gets them, or all that is wrong with them. An owner has the uploads of those below it, as it has
 * their tasks.
 */
export async function findFiles(
  { owner, files }: Pick<SubmitRequest, 'owner' | 'files'>,
  { store, clock }: { readonly store: Pick<TaskStore, 'uploads'>; readonly clock: Clock },
): Promise<FoundFiles> {
  if (files.length === 0) return { status: 'found', files: [] }
  const ids = [...new Set(files.map(({ uploadId }) => uploadId as ArtifactId))]
  const uploads = new Map<string, Upload>((await store.uploads(ids)).map((upload) => [upload.id, upload]))
  const issues: InputIssue[] = []
  const found: Artifact[] = []
  for (const [index, { uploadId, name }] of files.entries()) {
    const upload = uploads.get(uploadId)
    if (upload === undefined || !isOf(upload.owner, owner)) {
      issues.push({ path: `files.${index}.uploadId`, message: unknownUploadText(uploadId) })
    } else if (upload.expiresAt <= clock.now()) {
      issues.push({ path: `files.${index}.uploadId`, message: 'has expired; upload the file again' })
    } else {
      const { id, mediaType, bytes, sha256 } = upload
      const file = { id, name: name ?? upload.name, mediaType, bytes, sha256 }
      if (found.some((other) => other.name === file.name))
        issues.push({ path: `files.${index}.name`, message: `is used twice: ${JSON.stringify(file.name)}` })
      found.push(file)
    }
  }
  return issues.length > 0 ? { status: 'invalid', issues } : { status: 'found', files: found }
}
