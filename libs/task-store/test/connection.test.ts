import { silentLogger } from '@gpu-service/tasks'
import { expect, it } from 'vitest'
import { createAuditTrail } from '../src/audit-trail.ts'
import { openConnections } from '../src/connection.ts'
import { Prisma } from '../src/generated/client.ts'
import { openTaskStore } from '../src/index.ts'
import { createWriter } from '../src/writer.ts'
import { newTask, taskId, temporaryFolder } from './fixtures.ts'

const setOwner = (owner: string) => Prisma.sql`UPDATE "Task" SET "owner" = ${owner} WHERE "id" = ${taskId(1)}`

it('keeps a transaction to itself until it commits, drops it when it fails, and goes on with the next', async () => {
  using folder = temporaryFolder()
  const file = `${folder.path}/tasks.db`
  const store = await openTaskStore({ url: `file:${file}`, logger: silentLogger })
  await store.create([newTask(1)])
  await store[Symbol.asyncDispose]()

  await using connections = await openConnections(file)
  const writer = createWriter(connections.writer, createAuditTrail(), () => undefined)
  const owner = async () => (await connections.reader.task.findUnique({ where: { id: taskId(1) } }))?.owner
  const failing = writer.change(async ({ execute }) => {
    await execute(setOwner('lost'))
    throw new Error('no')
  })
  const during = writer.change(async ({ execute }) => {
    await execute(setOwner('bob'))
    return owner()
  })
  await expect(failing).rejects.toThrow('no')
  expect(await during).toBe('ann')
  expect(await owner()).toBe('bob')
  await expect(connections.reader.$executeRaw(setOwner('eve'))).rejects.toMatchObject({ code: 'P2010' })
})
