// Appends to three tasks, and claims and requeues two others together, as fast as it can until it is killed. Tells on stdout, a line each,
// what has been acknowledged: node --import tsx crash-writer.ts <url>

import { writeSync } from 'node:fs'
import { argv } from 'node:process'
import { silentLogger } from '@gpu-service/tasks'
import { openTaskStore } from '../src/index.ts'
import { claimOf, deltas, newTask, newWorker, requeued, taskId, workerId } from './fixtures.ts'

const store = await openTaskStore({ url: argv[2] ?? '', logger: silentLogger })

async function write(n: number): Promise<void> {
  await store.create([newTask(n, { idempotencyKey: String(n), requestHash: 'same' })])
  const [claimed] = await store.claim([claimOf(n)])
  const task = claimed ?? (await store.task(taskId(n)))
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

/** The two tasks have one worker and the same fate: claimed in one batch, requeued in one append, again and again. */
async function retry(): Promise<void> {
  const pair = [4, 5]
  await store.create(pair.map((n) => newTask(n, { idempotencyKey: String(n), requestHash: 'same' })))
  const task = await store.task(taskId(4))
  let attempt = task?.attempt ?? 0
  let after = task?.lastSeq ?? 0
  let claimed = task?.status === 'STARTING'
  for (;;) {
    if (!claimed) {
      attempt++
      // Each attempt has a worker of its own, far from those of the others.
      const worker = newWorker(1_000_000 + attempt)
      const known = { id: worker.id, claim: worker.claim }
      const claims = pair.map((n) => claimOf(n, { attempt, after, worker: n === 4 ? worker : known }))
      await store.claim(claims)
      after++
      writeSync(1, `4 ${after}\n5 ${after}\n`)
    }
    await store.append({
      workerId: workerId(1_000_000 + attempt),
      tasks: pair.map((n) => requeued(n, after, attempt)),
    })
    claimed = false
    after++
    writeSync(1, `4 ${after}\n5 ${after}\n`)
  }
}

await Promise.all([...[1, 2, 3].map(write), retry()])
