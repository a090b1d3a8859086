import { silentLogger } from '@gpu-service/tasks'
import { PrismaBetterSqlite3 } from '@prisma/adapter-better-sqlite3'
import Database from 'better-sqlite3'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { migrate } from '../src/migrations.ts'
import { temporaryFolder } from './fixtures.ts'

const first = { name: '20260101000000_first', sql: 'CREATE TABLE "a" ("id" TEXT NOT NULL PRIMARY KEY);' }
const second = {
  name: '20260102000000_second',
  sql: `CREATE TABLE "b" ("a" TEXT NOT NULL REFERENCES "a" ("id") ON DELETE CASCADE);\nINSERT INTO "b" SELECT "id" FROM "a";`,
}

describe('migrations', () => {
  let folder: ReturnType<typeof temporaryFolder>
  let file: string

  beforeEach(() => {
    folder = temporaryFolder()
    file = `${folder.path}/some.db`
  })
  afterEach(() => {
    folder[Symbol.dispose]()
  })

  const run = (...migrations: { name: string; sql: string }[]) =>
    migrate(new PrismaBetterSqlite3({ url: `file:${file}` }), migrations, silentLogger)

  function query(sql: string): unknown[] {
    const database = new Database(file)
    try {
      return database.prepare(sql).all()
    } finally {
      database.close()
    }
  }

  const applied = () => query('SELECT migration_name AS name FROM _prisma_migrations ORDER BY 1')

  it('apply once, in their order, as they become known', async () => {
    await run(first)
    const database = new Database(file)
    database.exec(`INSERT INTO "a" VALUES ('kept')`)
    database.close()
    await run(first, second)
    await run(first, second)
    expect(applied()).toEqual([{ name: first.name }, { name: second.name }])
    expect(query('SELECT * FROM "b"')).toEqual([{ a: 'kept' }])
  })

  it('leave nothing behind when one of them fails, not even those before it', async () => {
    await run(first)
    const broken = { name: '20260103000000_broken', sql: 'CREATE TABLE "c" ("x" TEXT);\nNONSENSE;' }
    await expect(run(first, second, broken)).rejects.toMatchObject({
      code: 'MIGRATION_FAILED',
      message: expect.stringContaining('NONSENSE') as string,
    })
    expect(query(`SELECT name FROM sqlite_master WHERE type = 'table' AND name IN ('b', 'c')`)).toEqual([])
    expect(applied()).toEqual([{ name: first.name }])
    await run(first, second)
    expect(applied()).toHaveLength(2)
  })

  it('do not cascade while a table is rebuilt, and never leave a row without what it refers to', async () => {
    await run(first, second)
    const database = new Database(file)
    database.exec(`INSERT INTO "a" VALUES ('x'); INSERT INTO "b" VALUES ('x')`)
    database.close()
    const rebuilt = {
      name: '20260103000000_rebuilt',
      sql: `CREATE TABLE "new_a" ("id" TEXT NOT NULL PRIMARY KEY, "more" TEXT);
        INSERT INTO "new_a" SELECT "id", 'm' FROM "a"; DROP TABLE "a"; ALTER TABLE "new_a" RENAME TO "a";`,
    }
    await run(first, second, rebuilt)
    expect(query('SELECT * FROM "b"')).toEqual([{ a: 'x' }])
    const orphaning = { name: '20260104000000_orphaning', sql: 'DELETE FROM "a";' }
    await expect(run(first, second, rebuilt, orphaning)).rejects.toMatchObject({ code: 'MIGRATION_FAILED' })
    expect(query('SELECT "id" FROM "a"')).toEqual([{ id: 'x' }])
  })
})
