// Writes libs/task-store/src/generated: Prisma's client from prisma/schema.prisma, and the migrations as a module, so that they are
// found from the sources and from a bundle alike. Offline and silent; a second run with nothing changed does nothing.
//
//   node tools/prisma-generate.mjs

import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const schemaFile = join(root, 'prisma/schema.prisma')
const migrationsFolder = join(root, 'prisma/migrations')
const generated = join(root, 'libs/task-store/src/generated')
const stampFile = join(generated, '.stamp')
const require = createRequire(import.meta.url)

/** The migrations in the order in which they apply. */
export function readMigrations() {
  if (!existsSync(migrationsFolder)) return []
  return readdirSync(migrationsFolder, { withFileTypes: true })
    .filter((entry) => entry.isDirectory())
    .map((entry) => entry.name)
    .sort()
    .map((name) => ({ name, sql: readFileSync(join(migrationsFolder, name, 'migration.sql'), 'utf8') }))
}

export function generate() {
  const migrations = readMigrations()
  const cli = require.resolve('prisma/package.json')
  const stamp = createHash('sha256')
    .update(readFileSync(fileURLToPath(import.meta.url)))
    .update(readFileSync(cli))
    .update(readFileSync(schemaFile))
    .update(JSON.stringify(migrations))
    .digest('hex')
  if (existsSync(stampFile) && readFileSync(stampFile, 'utf8') === stamp) return

  rmSync(generated, { recursive: true, force: true })
  const run = spawnSync(
    process.execPath,
    [join(dirname(cli), 'build/index.js'), 'generate', '--schema', schemaFile, '--no-hints'],
    {
      cwd: root,
      encoding: 'utf8',
      env: {
        ...process.env,
        // The CLI insists on a schema engine, which it would download, and never runs it here: any executable will do.
        PRISMA_SCHEMA_ENGINE_BINARY: process.execPath,
        PRISMA_HIDE_UPDATE_MESSAGE: '1',
        CHECKPOINT_DISABLE: '1',
        NO_COLOR: '1',
      },
    },
  )
  if (run.status !== 0) {
    throw new Error(`prisma generate failed:\n${run.stdout}${run.stderr}`, { cause: run.error })
  }
  writeFileSync(
    join(generated, 'migrations.ts'),
    `// Generated from prisma/migrations. Do not edit.\nexport const MIGRATIONS: readonly { readonly name: string; readonly sql: string }[] = ${JSON.stringify(migrations, null, 2)}\n`,
  )
  // Last: what is there without it is incomplete.
  writeFileSync(stampFile, stamp)
}

if (process.argv[1] === fileURLToPath(import.meta.url)) generate()
