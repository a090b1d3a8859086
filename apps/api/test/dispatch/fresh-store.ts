import { existsSync } from 'node:fs'
import { copyFile, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { openTaskStore } from '@gpu-service/task-store'
import { silentLogger, type TaskStore } from '@gpu-service/tasks'
import { afterAll } from 'vitest'

/** In memory where that can be had: what a crash would leave behind is not what is tested here. */
const PARENT = existsSync('/dev/shm') ? '/dev/shm' : tmpdir()

let folder: Promise<string> | null = null
let empty: Promise<string> | null = null
let next: Promise<TaskStore> | null = null
let count = 0
const closings: Promise<void>[] = []

/** An empty store on a file of its own. The next one is opened while the test runs, since that takes longer than most tests. */
export function freshStore(): Promise<TaskStore> {
  const store = next ?? open()
  next = store.then(open)
  return store
}

/** Closes a store behind the test's back; that fails the file, not the test. */
export function discard(store: TaskStore): void {
  closings.push(Promise.resolve(store[Symbol.asyncDispose]()))
}

async function open(): Promise<TaskStore> {
  folder ??= mkdtemp(join(PARENT, 'gpu-service-dispatch-'))
  // The schema is made once.
  empty ??= make(join(await folder, 'empty.sqlite'))
  const file = join(await folder, `${++count}.sqlite`)
  await copyFile(await empty, file)
  return openTaskStore({ url: `file:${file}`, logger: silentLogger })
}

async function make(file: string): Promise<string> {
  await (await openTaskStore({ url: `file:${file}`, logger: silentLogger }))[Symbol.asyncDispose]()
  return file
}

afterAll(async () => {
  if (next !== null) discard(await next)
  await Promise.all(closings)
  if (folder !== null) await rm(await folder, { recursive: true })
})
