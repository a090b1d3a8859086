import type { ArtifactFiles } from '../artifact-files.ts'
import { runIdOf } from '../ids.ts'
import type { RunOrder } from '../runner.ts'
import type { Task } from '../task.ts'

/** The task's attempt as its worker is told of it. */
export function runOrderOf(
  { id, attempt, input, files }: Pick<Task, 'id' | 'attempt' | 'input' | 'files'>,
  artifactFiles: Pick<ArtifactFiles, 'place'>,
): RunOrder {
  return {
    runId: runIdOf(id, attempt),
    attempt,
    input,
    files: files.map(({ id: uploadId, ...file }) => ({
      ...file,
      placeAt: (path) => artifactFiles.place(uploadId, path),
    })),
  }
}
