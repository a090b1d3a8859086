import { StoreError } from '@gpu-service/task-store'
import type { TaskFilter } from '@gpu-service/tasks'
import { refusal } from './errors.ts'
import type { TaskFilter as TaskFilterInput } from './generated/resolvers.ts'

export function parseFilter(filter: TaskFilterInput | null | undefined): TaskFilter {
  const { status, presetId, createdAfter, createdBefore, label, text } = filter ?? {}
  return {
    ...(status != null && { status }),
    ...(presetId != null && { presetId }),
    ...(createdAfter != null && { createdAfter }),
    ...(createdBefore != null && { createdBefore }),
    ...(label != null && { label: { key: label.key, value: label.value ?? null } }),
    // A text without a word says nothing.
    ...(text != null && text.trim() !== '' && { text }),
  }
}

/** A filter that the store cannot search by is the client's fault. */
export async function searching<T>(search: Promise<T>): Promise<T> {
  try {
    return await search
  } catch (error) {
    if (error instanceof StoreError && error.code === 'INVALID_FILTER') {
      throw refusal('BAD_USER_INPUT', error.message)
    }
    throw error
  }
}
