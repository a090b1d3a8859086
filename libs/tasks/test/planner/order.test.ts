import { expect, test } from 'vitest'
import { inOrder } from '../../src/planner/order.ts'
import { DEFAULT_RULES, type QueuedTask } from '../../src/planner/index.ts'
import { NOW, situation, task, worker } from './situation.ts'
import { randomFrom } from './world.ts'

const DAY_MS = 86_400_000
const { priorityStepMs, fairnessStepMs, maxFairnessMs } = DEFAULT_RULES
const workers = [worker('w', { runningOwners: ['owner 1', 'owner 2', 'owner 2'] })]

/** The order as the rule says it, by comparing. */
function byRule(queue: readonly QueuedTask[]): string[] {
  const byMoment = (tasks: readonly { readonly task: QueuedTask; readonly moment: number }[]) =>
    tasks.toSorted((a, b) => a.moment - b.moment || (a.task.id < b.task.id ? -1 : 1))
  const before = new Map<string, number>()
  for (const { runningOwners } of workers) {
    for (const owner of runningOwners) before.set(owner, (before.get(owner) ?? 0) + 1)
  }
  const submitted = byMoment(
    queue.map((queued) => ({ task: queued, moment: queued.queuedAt - queued.priority * priorityStepMs })),
  )
  const later = submitted.map(({ task: queued, moment }) => {
    const count = before.get(queued.owner) ?? 0
    before.set(queued.owner, count + 1)
    return { task: queued, moment: moment + Math.min(maxFairnessMs, fairnessStepMs * count) }
  })
  return byMoment(later).map(({ task: { id } }) => id)
}

function queueOf(count: number, seed: number, momentOf: (random: () => number) => number): QueuedTask[] {
  const random = randomFrom(seed)
  return Array.from({ length: count }, () =>
    task(`task-${Math.floor(random() * 1e9)}`, {
      owner: `owner ${Math.floor(random() * 8)}`,
      priority: Math.floor(random() * 5) - 2,
      queuedAt: NOW - momentOf(random),
    }),
  )
}

test.each([
  ['few', 40, (random: () => number) => Math.floor(random() * 60_000)],
  ['many of the last minutes', 1_000, (random: () => number) => Math.floor(random() * 600_000)],
  ['many that came at a few moments', 1_000, (random: () => number) => Math.floor(random() * 5) * 5_000],
  ['many of the last months', 1_000, (random: () => number) => Math.floor(random() * 200 * DAY_MS)],
  ['many that came between two milliseconds', 1_000, (random: () => number) => random() * 10_000],
])(
  '%s tasks are put in the order of their moments, equal ones in that of their ids',
  (_, count, momentOf) => {
    for (let seed = 1; seed <= 5; seed += 1) {
      const queue = queueOf(count, seed, momentOf)
      expect(inOrder(situation({ queue, workers })).map(({ id }) => id)).toEqual(byRule(queue))
    }
  },
)
