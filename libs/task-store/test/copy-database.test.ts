import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { silentLogger } from '@gpu-service/tasks'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { copyDatabase, openTaskStore } from '../src/index.ts'
import { newTask, taskId, temporaryFolder } from './fixtures.ts'

describe('a copy of the database', () => {
  let folder: ReturnType<typeof temporaryFolder>
  let file: string
  let target: string

  beforeEach(() => {
    folder = temporaryFolder()
    file = `${folder.path}/tasks.db`
    target = `${folder.path}/copy.db`
  })
  afterEach(() => {
    folder[Symbol.dispose]()
  })

  const open = (path: string) => openTaskStore({ url: `file:${path}`, logger: silentLogger })

  it('is made while the database is in use, and is one in its own right', async () => {
    await using store = await open(file)
    await store.create([newTask(1)])
    expect(copyDatabase(file, target)).toEqual({ artifactIds: [] })
    await store.create([newTask(2)])

    await using copy = await open(target)
    expect(copy.installation).toBe(store.installation)
    expect(await copy.task(taskId(1))).toEqual(await store.task(taskId(1)))
    expect(await copy.task(taskId(2))).toBeNull()
    expect(await store.task(taskId(2))).not.toBeNull()
  })

  it('replaces nothing', async () => {
    await (await open(file))[Symbol.asyncDispose]()
    writeFileSync(target, 'something else')
    expect(() => copyDatabase(file, target)).toThrow(expect.objectContaining({ code: 'INVALID_WRITE' }))
    expect(readFileSync(target, 'utf8')).toBe('something else')
  })

  it.each([
    ['that is not there', 'DATABASE_MISSING', () => undefined],
    [
      'that is damaged',
      'DATABASE_CORRUPT',
      (path: string) => {
        writeFileSync(path, 'x'.repeat(8_192))
      },
    ],
  ])('of one %s is not there either', (_which, code, make) => {
    make(file)
    expect(() => copyDatabase(file, target)).toThrow(expect.objectContaining({ code }))
    expect(existsSync(target)).toBe(false)
  })
})
