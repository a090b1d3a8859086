import { mapping } from './collections.ts'
import { duration, durationOrNever } from './quantity.ts'
import { choice, flag, number } from './scalars.ts'
import { absentable, checked, complainOfKey, optional } from './shape.ts'

const MAX_MS = 30 * 86_400_000

/** The `session` of a preset. */
export const session = checked(
  mapping('a mapping such as {max_concurrency: 4}', {
    max_concurrency: optional(
      number({ min: 1, max: 1_024, whole: true }),
      1,
      'The most tasks that one worker works on at a time.',
    ),
    max_workers: absentable(
      number({ min: 1, max: 1_024, whole: true }),
      'The most workers of the preset at a time. Absent: as many as there is room for.',
    ),
    idle: optional(
      durationOrNever({ minMs: 0, maxMs: MAX_MS, range: 'from 0s to 30d' }),
      '10m',
      'How long a worker stays without a task before it is ended; 0s: it is ended at once; never: it stays until its place is needed.',
    ),
    max_tasks: absentable(
      number({ min: 1, max: 1_000_000_000, whole: true }),
      'How many tasks a worker serves before it is ended. Absent: any number.',
    ),
    max_age: absentable(
      duration({ minMs: 1_000, maxMs: MAX_MS, range: 'from 1s to 30d' }),
      'How old a worker gets before it is given no more tasks. Absent: any age.',
    ),
    min_residency: optional(
      duration({ minMs: 0, maxMs: 86_400_000, range: 'from 0s to 1d' }),
      '10s',
      'How long a worker that has become ready is safe from being ended for the sake of another preset.',
    ),
    pinned: optional(
      flag,
      false,
      'true: an idle worker is ended neither for being idle nor for the sake of another preset.',
    ),
    prewarm: optional(
      number({ min: 0, max: 64, whole: true }),
      0,
      'How many workers are kept warm before there are tasks, while nothing else needs their place.',
    ),
    isolation: optional(
      choice({ shared: 'shared', owner: 'owner' } as const),
      'shared',
      "shared: a worker serves everybody's tasks. owner: only those of the owner whose task it was started for.",
    ),
  }),
  ({ max_concurrency, max_tasks, max_workers, prewarm, isolation }, place, report) => {
    if (max_tasks !== null && max_concurrency > max_tasks)
      complainOfKey(
        place,
        'max_concurrency',
        report,
        `asks for ${max_concurrency} tasks at a time, but max_tasks ends a worker after ${max_tasks}`,
      )
    if (max_workers !== null && prewarm > max_workers)
      complainOfKey(
        place,
        'prewarm',
        report,
        `asks for ${prewarm} workers, but max_workers allows ${max_workers}`,
      )
    if (isolation === 'owner' && prewarm > 0)
      complainOfKey(
        place,
        'prewarm',
        report,
        'has no meaning with `isolation: owner`, where a worker is started for a task of its owner',
      )
  },
)
