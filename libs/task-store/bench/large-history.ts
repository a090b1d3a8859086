// A database of many tasks that have little in common: as an installation of some years has it, with what is rare in it and what is not.

import { silentLogger, type TaskId } from '@gpu-service/tasks'
import Database from 'better-sqlite3'
import { openTaskStore } from '../src/index.ts'
import {
  claimOf,
  eventsAfter,
  completed,
  newTask,
  settlement,
  START,
  taskId,
  workerId,
} from '../test/fixtures.ts'

/** From one to the next, in milliseconds. */
export const STEP_MS = 1_000
/** So many wait, and before them so many run. */
const QUEUED = 2_000
const RUNNING = 20

/** The id of the n-th task, as the service makes them: of its time, and of what is random. */
export function idOfNth(n: number): TaskId {
  const time = (START + n * STEP_MS).toString(16).padStart(12, '0')
  const random = ((n * 2_654_435_761) % 2 ** 32).toString(16).padStart(12, '0')
  return `${time.slice(0, 8)}-${time.slice(8)}-7000-8001-${random}` as TaskId
}

/**
 * Writes it to the file, without its events and its search index. Of account `big` there are nine of ten tasks, of `big/ann` a seventh of these, of `acme/rare`
 * three; of the preset `rare/preset` five; of the status TIMED_OUT three; with the label `rare` three. The word `half` stands in each second
 * input and `other` in the rest, `needle` in three, `common` in all.
 */
export async function writeLargeHistory(file: string, count: number): Promise<void> {
  {
    await using store = await openTaskStore({ url: `file:${file}`, logger: silentLogger })
    await store.create([newTask(0)])
    await store.claim([claimOf(0)])
    const events = eventsAfter(2, completed)
    await store.append({
      workerId: workerId(0),
      tasks: [{ taskId: taskId(0), attempt: 1, after: 2, events, settle: settlement }],
    })
  }
  const database = new Database(file)
  database.pragma('synchronous=OFF')
  const third = Math.floor(count / 3)
  const isRare = `n.i % ${third} = ${Math.floor(third / 2)}`
  const time = `(${START} + n.i * ${STEP_MS})`
  const owner = `CASE WHEN ${isRare} THEN 'acme/rare' WHEN n.i % 10 = 0 THEN 'small' || (n.i / 10 % 50) WHEN n.i % 7 = 0 THEN 'big/ann' ELSE 'big' END`
  const word = (factor: number, of: number) => `'w' || (n.i * ${factor} % ${of})`
  const words = [7_919, 104_729, 1_299_709, 15_485_863].flatMap((factor) => [
    word(factor, 50),
    word(factor, 2_000),
    word(factor, 50_000),
  ])
  const prompt = `'common ' || CASE n.i % 2 WHEN 0 THEN 'half ' ELSE 'other ' END || 'third' || (n.i % 3) || CASE WHEN ${isRare} THEN ' needle ' ELSE ' ' END || ${words.join(" || ' ' || ")}`
  const output = `'answer ' || (n.i % 5) || ' ' || ${words.map((each) => `${each} || 'x'`).join(" || ' ' || ")}`
  const columns: Readonly<Record<string, string>> = {
    id: `printf('%s-%s-7000-8001-%012x', substr(printf('%012x', ${time}), 1, 8), substr(printf('%012x', ${time}), 9), n.i * 2654435761 % 4294967296)`,
    owner,
    presetId: `CASE WHEN n.i % ${Math.floor(count / 5)} = 7 THEN 'rare/preset' WHEN n.i % 100 = 3 THEN 'sdxl/image' WHEN n.i % 10 < 7 THEN 'llama/chat' ELSE 'whisper/inference' END`,
    status: `CASE WHEN n.i >= ${count - QUEUED} THEN 'QUEUED' WHEN n.i >= ${count - QUEUED - RUNNING} THEN 'RUNNING'
      WHEN n.i % ${third} = 11 THEN 'TIMED_OUT' WHEN n.i % 20 = 1 THEN 'FAILED' WHEN n.i % 100 = 2 THEN 'CANCELLED' ELSE 'COMPLETED' END`,
    errorMessage: `CASE n.i % 20 WHEN 1 THEN 'CUDA out of memory' END`,
    labels: `CASE WHEN ${isRare} THEN '{"rare":"yes"}' ELSE printf('{"team":"%s"}', CASE n.i % 3 WHEN 0 THEN 'red' ELSE 'blue' END) END`,
    input: `json_object('prompt', ${prompt})`,
    createdAt: time,
    finishedAt: `${time} + 500`,
    place: `${time} << 21`,
  }
  const clone = (table: string, changed: Readonly<Record<string, string>>, of: string): void => {
    const names = (database.pragma(`table_info("${table}")`) as readonly { readonly name: string }[]).map(
      ({ name }) => name,
    )
    database.exec(`
      WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ${count - 1})
      INSERT INTO "${table}" SELECT ${names.map((name) => changed[name] ?? `t."${name}"`).join(', ')} FROM n, "${table}" AS t WHERE ${of}`)
  }
  const { id = '' } = columns
  clone('Task', columns, `t."id" = '${taskId(0)}'`)
  clone('Output', { taskId: id, text: output }, `t."taskId" = '${taskId(0)}'`)
  database.exec(`DELETE FROM "Task" WHERE "id" = '${taskId(0)}'; DELETE FROM "TaskSearch" WHERE 1`)
  database.close()
}
