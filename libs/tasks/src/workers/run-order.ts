import type { ArtifactFiles } from '../artifact-files.ts'
import type { Artifact } from '../event.ts'
import { runIdOf } from '../ids.ts'
import type { InputFile, RunOrder } from '../runner.ts'
import type { TaskStore } from '../store.ts'
import type { Task } from '../task.ts'

/** As many as a task can be given files. */
const MAX_PREVIOUS = 32

export interface RunOrderContext {
  readonly store: Pick<TaskStore, 'leftBefore'>
  readonly artifactFiles: Pick<ArtifactFiles, 'place' | 'missing'>
}

/** The task's attempt as its worker is told of it. */
export async function runOrderOf(
  { id, attempt, input, files, retryOf }: Pick<Task, 'id' | 'attempt' | 'input' | 'files' | 'retryOf'>,
  { store, artifactFiles }: RunOrderContext,
): Promise<RunOrder> {
  const placed = ({ id: fileId, name, mediaType, bytes, sha256 }: Artifact): InputFile => ({
    ...{ name, mediaType, bytes, sha256 },
    placeAt: (path) => artifactFiles.place(fileId, path),
  })
  async function previous(): Promise<readonly Artifact[]> {
    if (attempt === 1 && retryOf === null) return []
    const left = await store.leftBefore(id, attempt, MAX_PREVIOUS)
    const gone = new Set(await artifactFiles.missing(left.map((artifact) => artifact.id)))
    return left.filter((artifact) => !gone.has(artifact.id))
  }
  return {
    runId: runIdOf(id, attempt),
    attempt,
    input,
    files: files.map(placed),
    previous: (await previous()).map(placed),
  }
}
