// npm run audit -- verify [--database FILE] [--head SEQ:HASH]: tells whether the audit log of a database is as it was written; 0: it is, 1: it is
// not, 2: that cannot be told. The database is only read: a copy, or that of a stopped service (by default the one of the service with these
// settings, as npm run keys finds it).
// npm run audit -- export [--database FILE]: prints its entries, a line of JSON each.
import { once } from 'node:events'
import { parseArgs } from 'node:util'
import { prepare } from './setup.mjs'

const USAGE =
  'Usage: npm run audit -- verify [--database FILE] [--head SEQ:HASH]\n       npm run audit -- export [--database FILE]'

try {
  await main()
} catch (error) {
  console.error(error instanceof Error ? error.message : String(error))
  process.exitCode = 2
}

async function main() {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      database: { type: 'string' },
      head: { type: 'string' },
    },
  })
  const [command, ...more] = positionals
  if ((command !== 'verify' && command !== 'export') || more.length > 0) throw new Error(USAGE)
  await prepare()
  const { tsImport } = await import('tsx/esm/api')
  const { openAuditFile } = await tsImport('../libs/task-store/src/audit-file.ts', import.meta.url)
  const { parseAuditHead } = await tsImport('../libs/tasks/src/index.ts', import.meta.url)
  const kept = values.head === undefined ? null : parseAuditHead(values.head)
  if (values.head !== undefined && kept === null)
    throw new Error("--head is <seq>:<hash>, as `verify` and the API's auditVerification print it.")
  const log = openAuditFile(values.database ?? (await ownDatabase(tsImport)))
  try {
    if (command === 'verify') verify(log, kept)
    else await print(log)
  } finally {
    log[Symbol.dispose]()
  }
}

/** The database of the service with the settings of this environment. */
async function ownDatabase(tsImport) {
  const config = await tsImport('../apps/api/src/config.ts', import.meta.url)
  const read = config.readConfig(process.env, { cwd: process.cwd() })
  if (read.status === 'invalid') throw new Error(config.describeProblems(read.problems))
  return config.databaseFileOf(read.config)
}

function verify(log, kept) {
  const { entries, head, anchor, fault } = log.verify(kept)
  if (anchor.seq > 0)
    console.log(`Entries 1 to ${anchor.seq} were removed because they were kept long enough.`)
  if (fault === null) {
    console.log(
      `The audit log is as it was written: ${entries} entries, each with the hash that follows from the one before.`,
    )
    if (kept === null)
      console.log(
        'Whether entries were cut off at its end can be told only with a head that was kept elsewhere (--head).',
      )
    else if (kept.seq < anchor.seq)
      console.log(`The given head is of entry ${kept.seq}, which was removed: it proves nothing any more.`)
    else console.log(`Entry ${kept.seq} is there as it was when its head was kept.`)
    console.log(`Its head, to be kept elsewhere: ${head.seq}:${head.hash}`)
    return
  }
  console.log(
    `The audit log is NOT as it was written. The first fault is at entry ${fault.seq}: ${fault.message}`,
  )
  console.log(`The ${entries} entries before it are in order.`)
  process.exitCode = 1
}

async function print(log) {
  for (const entry of log.entries())
    if (!process.stdout.write(`${JSON.stringify(entry)}\n`)) await once(process.stdout, 'drain')
}
