import { FAILURE_CLASSES } from '@gpu-service/tasks'
import type { FailureClass } from '@gpu-service/tasks'
import { list, mapping } from './collections.ts'
import { duration } from './quantity.ts'
import { choice, number } from './scalars.ts'
import { optional } from './shape.ts'

const failureClass = choice(
  Object.fromEntries(FAILURE_CLASSES.map((name): [string, FailureClass] => [name, name])),
)

/** The `retry` of a preset. */
export const retry = mapping('a mapping such as {max_attempts: 3}', {
  max_attempts: optional(
    number({ min: 1, max: 20, whole: true }),
    2,
    'The most attempts of a task, the first one included; 1: none is tried again.',
  ),
  backoff: optional(
    duration({ minMs: 0, maxMs: 3_600_000, range: 'from 0s to 1h' }),
    '2s',
    'The wait before the second attempt; it doubles with each further one, up to 10 minutes.',
  ),
  on: optional(
    list(failureClass, {
      expected: 'a list of kinds of failure such as [gpu_lost, out_of_memory]',
      max: FAILURE_CLASSES.length,
      distinct: true,
    }),
    ['session_died', 'unacknowledged', 'gpu_lost'],
    'The kinds of failure after which a task is tried again; [] for none.',
  ),
})
