import type { WorkerSpec } from '@gpu-service/tasks'

export interface GoodKeys {
  readonly keys: string
  readonly spec: Partial<Record<keyof WorkerSpec, unknown>>
}

const LIMITS = { memoryMb: null, cpus: null, processes: 4096, sharedMemoryMb: 1024, tmpMb: 1024 }
const TIMEOUTS = { runMs: 86_400_000, stopGraceMs: 10_000, finishGraceMs: 10_000 }
const RELAX = { user: null, writableRoot: false, capabilities: [] }

/** Keys of a preset, and how they differ a spec from the default one. */
export const GOOD_KEYS: readonly GoodKeys[] = [
  { keys: 'docker_image: other:2', spec: { image: 'other:2' } },
  { keys: 'command: ["python", "/app/worker.py"]', spec: { command: ['python', '/app/worker.py'] } },
  {
    keys: 'command: [serve, --port, 8000, --flag=true, true]',
    spec: { command: ['serve', '--port', '8000', '--flag=true', 'true'] },
  },
  { keys: 'command: []', spec: { command: [] } },
  { keys: 'env_vars: {A: b, _C: 1}', spec: { env: { A: 'b', _C: '1' } } },
  { keys: 'env_vars:', spec: { env: {} } },
  { keys: 'env_vars: &e {A: b}', spec: { env: { A: 'b' } } },
  { keys: 'description: for people', spec: {} },
  { keys: 'mode: session', spec: { mode: 'SESSION' } },
  { keys: 'mode: one-off', spec: { mode: 'ONE_OFF' } },
  { keys: 'gpus: {count: 0}', spec: { gpus: { count: 0, ids: null } } },
  { keys: 'gpus: {count: 8}', spec: { gpus: { count: 8, ids: null } } },
  {
    keys: 'gpus: {ids: [GPU-1a2b, MIG-3c]}',
    spec: { gpus: { count: 'default', ids: ['GPU-1a2b', 'MIG-3c'] } },
  },
  { keys: 'gpus: {count: 1, ids: [GPU-1, GPU-2]}', spec: { gpus: { count: 1, ids: ['GPU-1', 'GPU-2'] } } },
  { keys: 'model_path: llama/7b', spec: { modelPath: 'llama/7b' } },
  {
    keys: 'model_path: models--meta-llama--Llama-3/snapshots/a.b..c',
    spec: { modelPath: 'models--meta-llama--Llama-3/snapshots/a.b..c' },
  },
  { keys: 'model_name: meta-llama/Llama-3', spec: { env: { MODEL_NAME: 'meta-llama/Llama-3' } } },
  { keys: 'input: {}', spec: {} },
  {
    keys: 'input: {type: object, properties: {prompt: {type: string, format: uri}}, required: [prompt]}',
    spec: {},
  },
  { keys: 'timeouts: {run: 90s}', spec: { timeouts: { ...TIMEOUTS, runMs: 90_000 } } },
  {
    keys: 'timeouts: {run: 1h30m, stop_grace: 0s, finish_grace: 1500ms}',
    spec: { timeouts: { runMs: 5_400_000, stopGraceMs: 0, finishGraceMs: 1_500 } },
  },
  {
    keys: 'timeouts: {run: 30d, stop_grace: 10m}',
    spec: { timeouts: { ...TIMEOUTS, runMs: 2_592_000_000, stopGraceMs: 600_000 } },
  },
  {
    keys: 'timeouts: {run: 3600, stop_grace: 0.5, finish_grace: 0.5h}',
    spec: { timeouts: { runMs: 3_600_000, stopGraceMs: 500, finishGraceMs: 1_800_000 } },
  },
  {
    keys: 'resources: {memory: 32GiB, cpus: 3.5, processes: 64}',
    spec: { limits: { ...LIMITS, memoryMb: 32_768, cpus: 3.5, processes: 64 } },
  },
  {
    keys: 'resources: {memory: 8GB, shared_memory: 512MiB, tmp: 1.5 GiB}',
    spec: { limits: { ...LIMITS, memoryMb: 7_629, sharedMemoryMb: 512, tmpMb: 1_536 } },
  },
  {
    keys: 'resources: {memory: 20480KiB, shared_memory: 1TiB, tmp: 64MB}',
    spec: { limits: { ...LIMITS, memoryMb: 20, sharedMemoryMb: 1_048_576, tmpMb: 61 } },
  },
  { keys: 'network: none', spec: { network: 'none' } },
  { keys: 'network: bridge', spec: { network: 'bridge' } },
  { keys: 'volumes: []', spec: { volumes: [] } },
  { keys: 'local: [python3, worker.py]', spec: { localCommand: ['python3', 'worker.py'] } },
  { keys: 'pull: never', spec: { pull: 'never' } },
  { keys: 'pull: missing', spec: { pull: 'missing' } },
  { keys: 'allow: {user: "1000:1000"}', spec: { relax: { ...RELAX, user: '1000:1000' } } },
  {
    keys: 'allow: {writable_root: true, capabilities: [SYS_NICE, IPC_LOCK]}',
    spec: { relax: { ...RELAX, writableRoot: true, capabilities: ['SYS_NICE', 'IPC_LOCK'] } },
  },
  { keys: 'allow:', spec: { relax: RELAX } },
]

export interface WrongKeys {
  /** `¦` marks where the issue must be. */
  readonly keys: string
  readonly says: string
  /** What the JSON Schema for editors cannot know. */
  readonly editorCannotTell?: true
}

/** Keys of a preset with one slip each. */
export const WRONG_KEYS: readonly WrongKeys[] = [
  {
    keys: 'docker_image: ¦[x]',
    says: 'docker_image: expected an image reference such as "loading-worker:latest"',
  },
  { keys: 'docker_image: ¦3', says: 'found 3; put it in quotes' },
  { keys: '¦docker_image:', says: 'found nothing' },
  { keys: 'docker_image: ¦""', says: 'found ""' },
  {
    keys: 'command: ¦python /app/worker.py',
    says: 'found "python /app/worker.py"; write ["python", "/app/worker.py"]',
  },
  { keys: 'command: ¦"a | b"', says: 'or ["sh", "-c", "…"] for a shell' },
  {
    keys: 'command: ¦{a: b}',
    says: 'expected a list of texts such as ["python", "/app/worker.py"], found a mapping',
  },
  { keys: 'command: [a, ¦{b: c}]', says: 'command[1]: expected a text' },
  { keys: 'command:\n  - a\n  -¦\n', says: 'command[1]: expected a text' },
  { keys: 'command: ¦["", a]', says: 'the first entry names the program', editorCannotTell: true },
  {
    keys: 'env_vars: ¦[A=b]',
    says: 'env_vars: expected a mapping of variable names to texts such as {MODEL_NAME: llama}, found a list',
  },
  { keys: 'env_vars: {¦A-B: c}', says: 'env_vars.A-B: the name of a variable has letters' },
  { keys: 'env_vars: {¦1A: c}', says: 'begins with no digit' },
  { keys: 'env_vars: {¦"A=B": c}', says: 'env_vars."A=B"' },
  {
    keys: 'env_vars: {¦A: }',
    says: "env_vars.A: expected a text (write '' for an empty one), found nothing",
  },
  { keys: 'env_vars: {A: ¦[b]}', says: 'env_vars.A: expected a text' },
  {
    keys: 'env_vars: {A: ¦"a\\0b"}',
    says: 'env_vars.A: the text holds a character that no text may hold',
    editorCannotTell: true,
  },
  { keys: 'description: ¦7', says: 'description: expected a text, found 7; put it in quotes' },
  { keys: `description: ¦${'x'.repeat(2_001)}`, says: 'longer than 2000 characters' },
  {
    keys: 'mode: ¦sesion',
    says: 'mode: expected one-off or session, found "sesion"; did you mean "session"?',
  },
  { keys: 'mode: ¦one_off', says: 'did you mean "one-off"?' },
  { keys: 'gpus: ¦1', says: 'gpus: expected a mapping such as {count: 1}, found 1' },
  { keys: 'gpus: {count: ¦two}', says: 'gpus.count: expected a whole number from 0 to 64, found "two"' },
  { keys: 'gpus: {count: ¦1.5}', says: 'found 1.5' },
  { keys: 'gpus: {count: ¦-1}', says: 'found -1' },
  { keys: 'gpus: {count: ¦65}', says: 'found 65' },
  { keys: 'gpus: {count: ¦.nan}', says: 'found .nan', editorCannotTell: true },
  { keys: 'gpus: {ids: ¦GPU-1}', says: 'gpus.ids: expected a list of GPU UUIDs' },
  { keys: 'gpus: {ids: ¦[]}', says: 'with 1 to 64 entries, found 0' },
  { keys: 'gpus: {ids: [¦0]}', says: "gpus.ids[0]: expected a GPU's UUID as `nvidia-smi -L` shows it" },
  { keys: 'gpus: {ids: [GPU-1, ¦GPU-1]}', says: 'gpus.ids[1]: is in the list already' },
  {
    keys: 'gpus: ¦{count: 2, ids: [GPU-1]}',
    says: 'count asks for 2 GPUs, but ids names only 1',
    editorCannotTell: true,
  },
  { keys: 'gpus: ¦{count: 0, ids: [GPU-1]}', says: 'ids has no meaning', editorCannotTell: true },
  { keys: 'gpus: {¦cuont: 1}', says: 'gpus.cuont: unknown key; did you mean "count"?' },
  { keys: 'model_path: ¦/models/llama', says: 'model_path: expected a path below the models folder' },
  { keys: 'model_path: ¦../secret', says: 'found "../secret"' },
  { keys: 'model_path: ¦a/../../b', says: 'found "a/../../b"' },
  { keys: 'model_path: ¦a/./b', says: 'found "a/./b"' },
  { keys: 'model_path: ¦a//b', says: 'found "a//b"' },
  { keys: 'model_path: ¦a\\b', says: 'found "a\\\\b"' },
  { keys: 'model_path: ¦.', says: 'found "."' },
  { keys: 'model_name: ¦""', says: 'model_name: expected a text, found ""' },
  { keys: 'input: ¦true', says: 'input: expected a mapping with a JSON Schema' },
  { keys: 'timeouts: ¦10m', says: 'timeouts: expected a mapping such as {run: 2h}' },
  {
    keys: 'timeouts: {run: ¦10 min}',
    says: 'timeouts.run: expected a length of time from 1s to 30d, such as 90s, 10m, 1h30m or a number of seconds',
  },
  { keys: 'timeouts: {run: ¦0}', says: 'found 0' },
  { keys: 'timeouts: {run: ¦-5}', says: 'found -5' },
  { keys: 'timeouts: {run: ¦31d}', says: 'found "31d"', editorCannotTell: true },
  { keys: 'timeouts: {run: ¦30m1h}', says: 'found "30m1h"' },
  { keys: 'timeouts: {run: ¦"90"}', says: 'found "90"' },
  { keys: 'timeouts: {run: ¦.inf}', says: 'found .inf', editorCannotTell: true },
  { keys: 'timeouts: {stop_grace: ¦2h}', says: 'from 0s to 1h', editorCannotTell: true },
  { keys: 'timeouts: {finish_grace: ¦soon}', says: 'timeouts.finish_grace' },
  { keys: 'timeouts: {¦stopgrac: 1s}', says: 'did you mean "stop_grace"?' },
  { keys: 'resources: ¦none', says: 'resources: expected a mapping such as {memory: 32GiB}' },
  {
    keys: 'resources: {memory: ¦8G}',
    says: 'resources.memory: expected a size with its unit from 16MiB to 16TiB, such as 512MiB or 8GB, found "8G"',
  },
  { keys: 'resources: {memory: ¦8}', says: 'found 8' },
  { keys: 'resources: {memory: ¦1MiB}', says: 'found "1MiB"', editorCannotTell: true },
  { keys: 'resources: {cpus: ¦0}', says: 'resources.cpus: expected a number from 0.01 to 1024, found 0' },
  {
    keys: 'resources: {processes: ¦-1}',
    says: 'resources.processes: expected a whole number from 1 to 4194304',
  },
  { keys: 'resources: {shared_memory: ¦10KiB}', says: 'resources.shared_memory', editorCannotTell: true },
  { keys: 'resources: {tmp: ¦64gb}', says: 'resources.tmp' },
  { keys: 'resources: {¦shm: 1GiB}', says: 'the keys here are memory, cpus, processes, shared_memory, tmp' },
  { keys: 'network: ¦host', says: 'network: expected none or bridge, found "host"' },
  { keys: 'network: ¦no', says: 'found "no"' },
  {
    keys: 'volumes: ¦{a: b}',
    says: 'volumes: expected a list of mappings such as [{source: /data/sets, target: /sets}], found a mapping',
  },
  {
    keys: 'volumes: [¦/data:/data]',
    says: 'volumes[0]: expected a mapping such as {source: /data/sets, target: /sets}, found "/data:/data"',
  },
  {
    keys: 'local: ¦python3 worker.py',
    says: 'local: expected a list of texts such as ["python3", "worker.py"]',
  },
  { keys: 'pull: ¦always', says: 'pull: expected never or missing, found "always"' },
  { keys: 'allow: ¦true', says: 'allow: expected a mapping such as {writable_root: true}' },
  {
    keys: 'allow: {user: ¦1000}',
    says: 'allow.user: expected numbers for user and group such as "1000:1000", in quotes, found 1000',
  },
  { keys: 'allow: {user: ¦root}', says: 'found "root"' },
  { keys: 'allow: {writable_root: ¦yes}', says: 'allow.writable_root: expected true or false, found "yes"' },
  { keys: 'allow: {capabilities: [¦SYS_ADMIN]}', says: 'allow.capabilities[0]: expected one of AUDIT_WRITE' },
  { keys: 'allow: {capabilities: [¦CAP_SYS_NICE]}', says: 'did you mean "SYS_NICE"?' },
  { keys: 'allow: {capabilities: [KILL, ¦KILL]}', says: 'is in the list already' },
  {
    keys: 'allow: {¦privileged: true}',
    says: 'allow.privileged: unknown key; the keys here are user, writable_root, capabilities',
  },
  { keys: '¦comand: [a]', says: 'comand: unknown key; did you mean "command"?' },
  { keys: '¦env: {}', says: 'env: unknown key; did you mean "env_vars"?' },
  { keys: '¦dockerImage: x', says: 'did you mean "docker_image"?' },
  { keys: '¦zzz: x', says: 'the keys here are docker_image, command, env_vars' },
]
