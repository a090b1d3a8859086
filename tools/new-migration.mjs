// Writes a new migration: what leads from the migrations that are there to prisma/schema.prisma, worked out by Prisma's own schema
// engine. Then generates anew. An applied migration is never edited: the next one corrects it.
//
//   node tools/new-migration.mjs add_priority

import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { register } from 'tsx/esm/api'
import { generate, readMigrations } from './prisma-generate.mjs'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const schemaFile = join(root, 'prisma/schema.prisma')

const name = process.argv[2]
if (name === undefined || !/^[a-z][a-z0-9_]*$/.test(name)) {
  console.error('Usage: npm run migration <name>, where <name> is made of a-z, 0-9 and _')
  process.exit(2)
}

// Node 20 does not read TypeScript by itself.
register()
const { diffToSchema } = await import('../libs/task-store/src/schema-engine.ts')
const sql = await diffToSchema(readMigrations(), readFileSync(schemaFile, 'utf8'))
if (sql === null) {
  console.log('Nothing to do: the migrations lead to the schema as it is.')
} else {
  const stamp = new Date().toISOString().replace(/\D/g, '').slice(0, 14)
  const folder = join(root, 'prisma/migrations', `${stamp}_${name}`)
  mkdirSync(folder, { recursive: true })
  writeFileSync(join(folder, 'migration.sql'), sql)
  writeFileSync(join(root, 'prisma/migrations/migration_lock.toml'), 'provider = "sqlite"\n')
  console.log(`Wrote ${folder}/migration.sql: read it before you commit it.`)
}
generate()
