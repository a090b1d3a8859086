import { environmentBytes } from '@gpu-service/tasks'
import type { TextMap } from '@gpu-service/tasks'
import { record } from './collections.ts'
import type { NameRules } from './collections.ts'
import { writtenText } from './scalars.ts'
import { checked, complain, mapped } from './shape.ts'

const MAX_ENV_BYTES = 65_536
const VARIABLE = '^[A-Za-z_][A-Za-z0-9_]{0,127}$'
// The loaders of Linux and macOS, what they are tuned by, and where the C library takes further code from.
const LOADER = ['LD_[A-Za-z0-9_]*', 'DYLD_[A-Za-z0-9_]*', 'GLIBC_TUNABLES', 'GCONV_PATH']
const VISIBILITY = [
  'NVIDIA_VISIBLE_DEVICES',
  'NVIDIA_DRIVER_CAPABILITIES',
  'NVIDIA_MIG_CONFIG_DEVICES',
  'NVIDIA_MIG_MONITOR_DEVICES',
  // Further devices of the host that NVIDIA's runtime gives to a container which asks for them.
  'NVIDIA_IMEX_CHANNELS',
  'NVIDIA_GDS',
  'NVIDIA_GDRCOPY',
  'NVIDIA_MOFED',
  'NVIDIA_NVSWITCH',
  'CUDA_VISIBLE_DEVICES',
  'HIP_VISIBLE_DEVICES',
  'ROCR_VISIBLE_DEVICES',
  'GPU_DEVICE_ORDINAL',
  'ONEAPI_DEVICE_SELECTOR',
  'ZE_AFFINITY_MASK',
]
const PROTOCOL = [
  'GPU_DEVICE',
  'TASK_ID',
  'INPUT_FILE',
  'TASK_INPUT',
  'INPUT_DIR',
  'TASK_FILES',
  'PREVIOUS_DIR',
  'PREVIOUS_FILES',
  'OUTPUT_DIR',
  'SECRETS_DIR',
  'PROTOCOL_VERSION',
]
const anyOf = (names: readonly string[]) => `^(?:${names.join('|')})$`

const VARIABLES: NameRules = {
  pattern: VARIABLE,
  refused: anyOf([...LOADER, ...VISIBILITY, ...PROTOCOL]),
  refuse(name) {
    const is = (names: readonly string[]) => new RegExp(anyOf(names), 'u').test(name)
    if (!new RegExp(VARIABLE, 'u').test(name))
      return 'the name of a variable has letters, digits and underscores only and begins with no digit'
    if (is(LOADER))
      return 'may not be set: it changes which code the worker loads; where the image needs it, set it there (ENV in its Dockerfile)'
    if (is(VISIBILITY)) return 'may not be set: it changes which GPUs or devices the worker sees; use gpus'
    if (is(PROTOCOL)) return 'may not be set: the service sets it for each task'
    return null
  },
}

/** The `env_vars` of a preset. */
export const environment = checked(
  mapped(
    record(writtenText(MAX_ENV_BYTES), {
      expected: 'a mapping of variable names to texts such as {MODEL_NAME: llama}',
      names: VARIABLES,
    }),
    (variables): TextMap => Object.fromEntries(variables.map(({ name, value }) => [name, value])),
  ),
  (env, place, report) => {
    if (environmentBytes(env) > MAX_ENV_BYTES)
      complain(place, report, `all variables together are larger than ${MAX_ENV_BYTES} bytes`)
  },
)
