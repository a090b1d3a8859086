import { mapping } from './collections.ts'
import { duration } from './quantity.ts'
import { absentable, optional } from './shape.ts'

/** The longest time that a task may run: 30 days. */
export const MAX_RUN_MS = 30 * 86_400_000

const long = duration({ minMs: 1_000, maxMs: MAX_RUN_MS, range: 'from 1s to 30d' })
const upToADay = duration({ minMs: 1_000, maxMs: 86_400_000, range: 'from 1s to 1d' })
const grace = duration({ minMs: 0, maxMs: 3_600_000, range: 'from 0s to 1h' })

/** The `timeouts` of a preset. */
export const timeouts = mapping('a mapping such as {run: 2h}', {
  queue: absentable(
    long,
    'How long a task may wait for its worker, from its submission or its return to the queue. Absent: for ever.',
  ),
  start: optional(
    upToADay,
    '30m',
    'How long a worker may take from its start to its first sign of life, of a session worker to its `worker ready`: models take long to load.',
  ),
  run: optional(
    long,
    '24h',
    'How long a task may run, from the start of its worker (or from being handed to a warm one). A task may ask for another time.',
  ),
  silence: absentable(upToADay, 'How long a running task may say nothing. Absent: for ever.'),
  acknowledge: optional(
    duration({ minMs: 1_000, maxMs: 3_600_000, range: 'from 1s to 1h' }),
    '30s',
    'How long a session worker may take from being handed a task to its first event of it.',
  ),
  stop_grace: optional(
    grace,
    '10s',
    'How long a worker that is told to stop (SIGTERM), or a session worker that is asked to cancel a task, may take, for instance to save a checkpoint, before more is done.',
  ),
  finish_grace: optional(
    grace,
    '10s',
    'How long a one-off worker may take to exit after its finish event before it is stopped.',
  ),
})
