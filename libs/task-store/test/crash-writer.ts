// Appends to three tasks as fast as it can until it is killed, and tells on stdout, a line each, what has been acknowledged:
// node --import tsx crash-writer.ts <url> <first worker>

import { writeSync } from 'node:fs'
import { argv } from 'node:process'
import { silentLogger } from '@gpu-service/tasks'
import { openTaskStore } from '../src/index.ts'
import { claimOf, deltas, newTask, taskId, workerId } from './fixtures.ts'

const store = await openTaskStore({ url: argv[2] ?? '', logger: silentLogger })

async function write(n: number): Promise<void> {
  await store.create(newTask(n, { idempotencyKey: String(n), requestHash: 'same' }))
  const task = (await store.claim(claimOf(n))) ?? (await store.task(taskId(n)))
  let after = task?.lastSeq ?? 0
  writeSync(1, `${n} ${after}\n`)
  for (let round = 0; ; round++) {
    const count = 1 + ((round * 7) % 40)
    await store.append({
      workerId: workerId(n),
      cursor: { stdout: String(after + count), stderr: '' },
      tasks: [{ taskId: taskId(n), attempt: 1, after, events: deltas(after, count) }],
    })
    after += count
    writeSync(1, `${n} ${after}\n`)
    // Compaction must survive a crash as well.
    if (round % 50 === 49) await store.compact(taskId(n))
  }
}

await Promise.all([1, 2, 3].map(write))
