import type { TaskStore } from '@gpu-service/tasks'
import { afterEach, beforeEach } from 'vitest'

/** What a suite needs of a kind of database: a fresh one, opened twice under the same place. */
export interface Place extends AsyncDisposable {
  open(): Promise<TaskStore>
}

/** Opens a store on a fresh place for each test of the suite that is being described; `opened` gets it then, and whenever it is opened anew. */
export function openForEach(
  openPlace: () => Promise<Place>,
  opened: (store: TaskStore) => void,
): { readonly reopen: () => Promise<void> } {
  let place: Place
  let store: TaskStore
  const open = async (): Promise<void> => {
    store = await place.open()
    opened(store)
  }
  beforeEach(async () => {
    place = await openPlace()
    await open()
  })
  afterEach(async () => {
    await store[Symbol.asyncDispose]()
    await place[Symbol.asyncDispose]()
  })
  return {
    async reopen() {
      await store[Symbol.asyncDispose]()
      await open()
    },
  }
}
