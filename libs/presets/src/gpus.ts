import type { GpuId } from '@gpu-service/tasks'
import { list, mapping } from './collections.ts'
import { size } from './quantity.ts'
import { choice, number, text } from './scalars.ts'
import { absentable, checked, complainOfKey, hasKey, mapped, optional } from './shape.ts'

const MAX_GPUS = 64
const MAX_GPU_MB = 16 * 1024 * 1024

const gpuId = mapped(
  text({
    expected: "a GPU's UUID as `nvidia-smi -L` shows it (numbers change when cards do)",
    pattern: '^[A-Za-z0-9][A-Za-z0-9._:/-]*$',
    maxLength: 128,
  }),
  (id) => id as GpuId,
)

const FIELDS = {
  count: absentable(
    number({ min: 0, max: MAX_GPUS, whole: true }),
    'How many GPUs each worker holds; 0: none. Absent: one where the machine has any, else none.',
  ),
  share: optional(
    choice({ exclusive: 'exclusive', shared: 'shared' } as const),
    'exclusive',
    'exclusive: no other worker is on the same GPU. shared: the worker claims memory on it, and others take what is left.',
  ),
  memory: absentable(
    size({ minMb: 1, maxMb: MAX_GPU_MB, range: 'from 1MiB to 16TiB', of: 'need' }),
    'Memory that a worker needs on each of its GPUs. Absent: what was measured of earlier workers, if anything.',
  ),
  memory_mb: absentable(
    number({ min: 1, max: MAX_GPU_MB, whole: true }),
    'The same as memory, as a number of MiB; only one of the two.',
  ),
  ids: absentable(
    list(gpuId, { expected: 'a list of GPU UUIDs', min: 1, max: MAX_GPUS, distinct: true }),
    'Only these GPUs may serve, by UUID. Absent: any.',
  ),
  names: absentable(
    list(text({ expected: 'a part of the name of a GPU such as H100', maxLength: 128 }), {
      expected: 'a list of parts of the names of GPUs such as [H100, A100]',
      min: 1,
      max: MAX_GPUS,
      distinct: true,
    }),
    'Only GPUs whose name contains one of these may serve; upper and lower case do not count. Absent: any.',
  ),
}

/** The `gpus` of a preset. */
export const gpus = checked(
  mapping('a mapping such as {count: 1}', FIELDS),
  ({ count, ids }, place, report) => {
    if (count === 0)
      for (const key of Object.keys(FIELDS))
        if (key !== 'count' && hasKey(place, key))
          complainOfKey(place, key, report, 'has no meaning where count is 0')
    if (count !== null && count > 0 && ids !== null && count > ids.length)
      complainOfKey(place, 'ids', report, `names only ${ids.length} of the ${count} GPUs that count asks for`)
    if (hasKey(place, 'memory') && hasKey(place, 'memory_mb'))
      complainOfKey(place, 'memory_mb', report, 'says again what memory says; remove one of the two')
  },
)
