import { readFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { PrismaBetterSqlite3 } from '@prisma/adapter-better-sqlite3'
import {
  bindMigrationAwareSqlAdapterFactory,
  type SqlMigrationAwareDriverAdapterFactory,
} from '@prisma/driver-adapter-utils'
import type * as Glue from '@prisma/schema-engine-wasm/schema_engine_bg'

/** One folder of prisma/migrations. */
export interface Migration {
  readonly name: string
  readonly sql: string
}

/** What is used of WebAssembly: Node.js has it, its types have not. */
declare const WebAssembly: {
  instantiate(
    module: Uint8Array,
    imports: object,
  ): Promise<{ readonly instance: { readonly exports: { __wbindgen_start(): void } } }>
}

/** TaskSearch is a table of FTS5, which keeps it in others: the schema cannot name them. */
const FILTERS = {
  externalTables: ['', '_config', '_data', '_docsize', '_idx'].map((part) => `TaskSearch${part}`),
  externalEnums: [],
}

// Its glue is one module with state of its own, so a process can have it started once only.
let loaded: Promise<typeof Glue> | null = null

async function load(): Promise<typeof Glue> {
  const glue = await import('@prisma/schema-engine-wasm/schema_engine_bg')
  const folder = dirname(
    createRequire(import.meta.url).resolve('@prisma/schema-engine-wasm/schema_engine_bg'),
  )
  const module = await readFile(join(folder, 'schema_engine_bg.wasm'))
  const { instance } = await WebAssembly.instantiate(module, { './schema_engine_bg.js': glue })
  glue.__wbg_set_wasm(instance.exports)
  instance.exports.__wbindgen_start()
  return glue
}

/**
 * Prisma's schema engine, the part that `prisma migrate` runs, in its WebAssembly build: the native one would have to be downloaded.
 * Loaded on demand, because it takes longer to start than everything else of the store.
 */
async function createEngine(factory: SqlMigrationAwareDriverAdapterFactory): Promise<Glue.SchemaEngine> {
  loaded ??= load()
  const { SchemaEngine } = await loaded
  return SchemaEngine.new(
    { datamodels: undefined },
    () => undefined,
    bindMigrationAwareSqlAdapterFactory(factory),
  )
}

function listOf(migrations: readonly Migration[]): Glue.MigrationList {
  return {
    // Used in messages only: the files are given with their content.
    baseDir: 'prisma/migrations',
    lockfile: { path: 'migration_lock.toml', content: 'provider = "sqlite"' },
    shadowDbInitScript: '',
    migrationDirectories: migrations.map(({ name, sql }) => ({
      path: name,
      migrationFile: { path: 'migration.sql', content: { tag: 'ok', value: sql } },
    })),
  }
}

/** Applies those migrations that the database has not seen, and records them as Prisma's CLI does. Opens no transaction. */
export async function applyMigrations(
  factory: SqlMigrationAwareDriverAdapterFactory,
  migrations: readonly Migration[],
): Promise<readonly string[]> {
  using engine = await createEngine(factory)
  const applied = await engine.applyMigrations({ migrationsList: listOf(migrations), filters: FILTERS })
  return applied.appliedMigrationNames
}

/** The SQL that leads from the migrations to the schema; `null` where they lead there already. */
export async function diffToSchema(migrations: readonly Migration[], schema: string): Promise<string | null> {
  using engine = await createEngine(inMemory())
  const diff = await engine.diff({
    from: migrations.length === 0 ? { tag: 'empty' } : { tag: 'migrations', ...listOf(migrations) },
    to: { tag: 'schemaDatamodel', files: [{ path: 'schema.prisma', content: schema }] },
    script: true,
    exitCode: true,
    filters: FILTERS,
  })
  return diff.exitCode === 0 ? null : (diff.stdout ?? '')
}

/** A database for the engine to replay the migrations on. */
function inMemory(): SqlMigrationAwareDriverAdapterFactory {
  const factory = new PrismaBetterSqlite3({ url: ':memory:' })
  return {
    provider: factory.provider,
    adapterName: factory.adapterName,
    connect: () => factory.connect(),
    async connectToShadowDb() {
      const connection = await factory.connectToShadowDb()
      // The engine replays a whole migration as if it were one statement, which the driver refuses.
      connection.executeRaw = async ({ sql, args }) => {
        if (args.length > 0) throw new TypeError('A migration has no parameters')
        await connection.executeScript(sql)
        return 0
      }
      return connection
    },
  }
}
