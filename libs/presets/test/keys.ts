import type { WorkerSpec } from '@gpu-service/tasks'

export interface GoodKeys {
  readonly keys: string
  readonly spec: Partial<Record<keyof WorkerSpec, unknown>>
}

const LIMITS = { memoryMb: null, cpus: null, processes: 4096, sharedMemoryMb: 1024, tmpMb: 1024 }
const OUTPUT = { mb: 256, events: 5_000_000, artifacts: 10_000, artifactsMb: 10_240 }
const GPUS = { count: 'default', share: 'exclusive', memoryMb: null, ids: null, names: null }
const TIMEOUTS = {
  queueMs: null,
  startMs: 1_800_000,
  runMs: 86_400_000,
  silenceMs: null,
  ackMs: 30_000,
  stopGraceMs: 10_000,
  finishGraceMs: 10_000,
}
const RETRY = { maxAttempts: 2, backoffMs: 2_000, on: ['session_died', 'unacknowledged', 'gpu_lost'] }
const SESSION = {
  maxConcurrency: 1,
  maxWorkers: null,
  idleMs: 600_000,
  maxTasks: null,
  maxAgeMs: null,
  minResidencyMs: 10_000,
  pinned: false,
  prewarm: 0,
  isolation: 'shared',
}
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
  { keys: 'mode: session', spec: { mode: 'SESSION', session: SESSION } },
  { keys: 'mode: session\nsession:', spec: { mode: 'SESSION', session: SESSION } },
  { keys: 'mode: one-off', spec: { mode: 'ONE_OFF' } },
  { keys: 'gpus: {count: 0}', spec: { gpus: { ...GPUS, count: 0 } } },
  { keys: 'gpus: {count: 64}', spec: { gpus: { ...GPUS, count: 64 } } },
  { keys: 'gpus: {ids: [GPU-1a2b, MIG-3c]}', spec: { gpus: { ...GPUS, ids: ['GPU-1a2b', 'MIG-3c'] } } },
  {
    keys: 'gpus: {count: 1, ids: [GPU-1, GPU-2]}',
    spec: { gpus: { ...GPUS, count: 1, ids: ['GPU-1', 'GPU-2'] } },
  },
  { keys: 'gpus: {share: exclusive}', spec: { gpus: GPUS } },
  { keys: 'gpus: {share: shared}', spec: { gpus: { ...GPUS, share: 'shared' } } },
  {
    keys: 'gpus: {share: shared, memory: 16GiB}',
    spec: { gpus: { ...GPUS, share: 'shared', memoryMb: 16_384 } },
  },
  // A need is rounded up, where a limit is rounded down.
  { keys: 'gpus: {memory: 8GB}', spec: { gpus: { ...GPUS, memoryMb: 7_630 } } },
  { keys: 'gpus: {memory: 1KiB}', spec: { gpus: { ...GPUS, memoryMb: 1 } } },
  { keys: 'gpus: {memory: 16TiB}', spec: { gpus: { ...GPUS, memoryMb: 16_777_216 } } },
  { keys: 'gpus: {memory_mb: 16000}', spec: { gpus: { ...GPUS, memoryMb: 16_000 } } },
  {
    keys: 'gpus: {count: 2, names: [H100, "rtx 4090"]}',
    spec: { gpus: { ...GPUS, count: 2, names: ['H100', 'rtx 4090'] } },
  },
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
    spec: { timeouts: { ...TIMEOUTS, runMs: 5_400_000, stopGraceMs: 0, finishGraceMs: 1_500 } },
  },
  {
    keys: 'timeouts: {queue: 1h, start: 2h, silence: 5m, acknowledge: 10s}',
    spec: {
      timeouts: { ...TIMEOUTS, queueMs: 3_600_000, startMs: 7_200_000, silenceMs: 300_000, ackMs: 10_000 },
    },
  },
  {
    keys: 'timeouts: {queue: 1s, start: 1s, silence: 1s, acknowledge: 1s}',
    spec: { timeouts: { ...TIMEOUTS, queueMs: 1_000, startMs: 1_000, silenceMs: 1_000, ackMs: 1_000 } },
  },
  {
    keys: 'timeouts: {queue: 30d, start: 1d, silence: 24h, acknowledge: 1h}',
    spec: {
      timeouts: {
        ...TIMEOUTS,
        queueMs: 2_592_000_000,
        startMs: 86_400_000,
        silenceMs: 86_400_000,
        ackMs: 3_600_000,
      },
    },
  },
  {
    keys: 'timeouts: {run: 30d, stop_grace: 10m}',
    spec: { timeouts: { ...TIMEOUTS, runMs: 2_592_000_000, stopGraceMs: 600_000 } },
  },
  {
    keys: 'timeouts: {run: 3600, stop_grace: 0.5, finish_grace: 0.5h}',
    spec: { timeouts: { ...TIMEOUTS, runMs: 3_600_000, stopGraceMs: 500, finishGraceMs: 1_800_000 } },
  },
  { keys: 'retry:', spec: { retry: RETRY } },
  { keys: 'retry: {max_attempts: 1}', spec: { retry: { ...RETRY, maxAttempts: 1 } } },
  {
    keys: 'retry: {max_attempts: 20, backoff: 0s}',
    spec: { retry: { ...RETRY, maxAttempts: 20, backoffMs: 0 } },
  },
  { keys: 'retry: {backoff: 1h, on: []}', spec: { retry: { ...RETRY, backoffMs: 3_600_000, on: [] } } },
  {
    keys: 'retry: {on: [out_of_memory, gpu_lost, engine, worker_failed, session_died, unacknowledged]}',
    spec: {
      retry: {
        ...RETRY,
        on: ['out_of_memory', 'gpu_lost', 'engine', 'worker_failed', 'session_died', 'unacknowledged'],
      },
    },
  },
  {
    keys: 'mode: session\nsession: {max_concurrency: 4, max_workers: 2, prewarm: 1, pinned: true}',
    spec: {
      mode: 'SESSION',
      session: { ...SESSION, maxConcurrency: 4, maxWorkers: 2, prewarm: 1, pinned: true },
    },
  },
  {
    keys: 'session: {idle: never, max_tasks: 1000, max_age: 1d, min_residency: 1m, isolation: owner}\nmode: session',
    spec: {
      mode: 'SESSION',
      session: {
        ...SESSION,
        idleMs: null,
        maxTasks: 1_000,
        maxAgeMs: 86_400_000,
        minResidencyMs: 60_000,
        isolation: 'owner',
      },
    },
  },
  {
    keys: 'mode: session\nsession: {idle: 0s, min_residency: 0s, max_concurrency: 3, max_tasks: 3, max_workers: 64, prewarm: 64}',
    spec: {
      mode: 'SESSION',
      session: {
        ...SESSION,
        idleMs: 0,
        minResidencyMs: 0,
        maxConcurrency: 3,
        maxTasks: 3,
        maxWorkers: 64,
        prewarm: 64,
      },
    },
  },
  {
    keys: 'mode: session\ntimeouts: {finish_grace: 1s}',
    spec: { mode: 'SESSION', session: SESSION, timeouts: { ...TIMEOUTS, finishGraceMs: 1_000 } },
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
  {
    keys: 'output: {size: 64MiB, events: 100, artifacts: 0, artifacts_size: 1GiB}',
    spec: { output: { mb: 64, events: 100, artifacts: 0, artifactsMb: 1_024 } },
  },
  { keys: 'output: {size: 16MiB}', spec: { output: { ...OUTPUT, mb: 16 } } },
  { keys: 'network: none', spec: { network: 'none' } },
  { keys: 'network: bridge', spec: { network: 'bridge' } },
  { keys: 'volumes: []', spec: { volumes: [] } },
  { keys: 'secrets:', spec: { secrets: [] } },
  {
    keys: 'secrets: {hf-token: env:WORKER_SECRET_HF}',
    spec: { secrets: [{ name: 'hf-token', from: 'variable', source: 'WORKER_SECRET_HF' }] },
  },
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
  { keys: 'secrets: ¦[a]', says: 'secrets: expected a mapping of names to sources' },
  { keys: 'secrets: {a: ¦relative}', says: 'secrets.a: expected the absolute path of a file' },
  { keys: 'secrets: {¦../a: env:WORKER_SECRET_A}', says: 'the name of a secret has 1 to 64 letters' },
  { keys: 'secrets: {¦.a: env:WORKER_SECRET_A}', says: 'the name of a secret has 1 to 64 letters' },
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
    keys: 'gpus: {count: 2, ¦ids: [GPU-1]}',
    says: 'gpus.ids: names only 1 of the 2 GPUs that count asks for',
    editorCannotTell: true,
  },
  ...['ids: [GPU-1]', 'names: [H100]', 'memory: 1GiB', 'memory_mb: 1024', 'share: shared'].map(
    (key): WrongKeys => ({
      keys: `gpus: {count: 0, ¦${key}}`,
      says: `gpus.${key.split(':')[0] ?? ''}: has no meaning where count is 0`,
      editorCannotTell: true,
    }),
  ),
  {
    keys: 'gpus: {memory: 16GiB, ¦memory_mb: 16384}',
    says: 'gpus.memory_mb: says again what memory says',
    editorCannotTell: true,
  },
  { keys: 'gpus: {share: ¦share}', says: 'gpus.share: expected exclusive or shared, found "share"; did you' },
  { keys: 'gpus: {share: ¦true}', says: 'gpus.share: expected exclusive or shared, found true' },
  { keys: 'gpus: {¦shared: true}', says: 'gpus.shared: unknown key; did you mean "share"?' },
  {
    keys: 'gpus: {memory: ¦16384}',
    says: 'gpus.memory: expected a size with its unit from 1MiB to 16TiB, such as 512MiB or 8GB, found 16384',
  },
  { keys: 'gpus: {memory: ¦0GiB}', says: 'found "0GiB"', editorCannotTell: true },
  { keys: 'gpus: {memory: ¦17TiB}', says: 'found "17TiB"', editorCannotTell: true },
  { keys: 'gpus: {memory_mb: ¦16GiB}', says: 'gpus.memory_mb: expected a whole number from 1 to 16777216' },
  { keys: 'gpus: {memory_mb: ¦0}', says: 'found 0' },
  { keys: 'gpus: {names: ¦H100}', says: 'gpus.names: expected a list of parts of the names of GPUs' },
  { keys: 'gpus: {names: ¦[]}', says: 'with 1 to 64 entries, found 0' },
  {
    keys: 'gpus: {names: [¦4090]}',
    says: 'gpus.names[0]: expected a part of the name of a GPU such as H100',
  },
  { keys: 'gpus: {names: [¦""]}', says: 'found ""' },
  { keys: 'gpus: {names: [H100, ¦H100]}', says: 'gpus.names[1]: is in the list already' },
  { keys: 'gpus: {¦cuont: 1}', says: 'gpus.cuont: unknown key; did you mean "count"?' },
  { keys: 'model_path: ¦/models/llama', says: 'model_path: expected a path below the models folder' },
  { keys: 'model_path: ¦../secret', says: 'found "../secret"' },
  { keys: 'model_path: ¦a/../../b', says: 'found "a/../../b"' },
  { keys: 'model_path: ¦a/./b', says: 'found "a/./b"' },
  { keys: 'model_path: ¦a//b', says: 'found "a//b"' },
  { keys: 'model_path: ¦a\\b', says: 'found "a\\\\b"' },
  { keys: 'model_path: ¦.', says: 'found "."' },
  { keys: 'model_path: ¦"a\\u202eb"', says: 'model_path: expected a path below the models folder' },
  { keys: 'model_path: ¦"a\\tb"', says: 'found "a\\tb"' },
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
  {
    keys: 'timeouts: {queue: ¦0s}',
    says: 'timeouts.queue: expected a length of time from 1s to 30d',
    editorCannotTell: true,
  },
  { keys: 'timeouts: {queue: ¦never}', says: 'found "never"' },
  {
    keys: 'timeouts: {start: ¦25h}',
    says: 'timeouts.start: expected a length of time from 1s to 1d',
    editorCannotTell: true,
  },
  { keys: 'timeouts: {silence: ¦0.5}', says: 'timeouts.silence: expected a length of time from 1s to 1d' },
  { keys: 'timeouts: {silence: ¦999ms}', says: 'found "999ms"', editorCannotTell: true },
  {
    keys: 'timeouts: {acknowledge: ¦0}',
    says: 'timeouts.acknowledge: expected a length of time from 1s to 1h',
  },
  { keys: 'timeouts: {¦ack: 5s}', says: 'timeouts.ack: unknown key; did you mean "acknowledge"?' },
  { keys: 'retry: ¦3', says: 'retry: expected a mapping such as {max_attempts: 3}, found 3' },
  { keys: 'retry: {max_attempts: ¦0}', says: 'retry.max_attempts: expected a whole number from 1 to 20' },
  { keys: 'retry: {max_attempts: ¦21}', says: 'found 21' },
  {
    keys: 'retry: {backoff: ¦2h}',
    says: 'retry.backoff: expected a length of time from 0s to 1h',
    editorCannotTell: true,
  },
  {
    keys: 'retry: {on: ¦gpu_lost}',
    says: 'retry.on: expected a list of kinds of failure such as [gpu_lost, out_of_memory]',
  },
  { keys: 'retry: {on: [¦oom]}', says: 'retry.on[0]: expected out_of_memory or gpu_lost or engine' },
  { keys: 'retry: {on: [¦out-of-memory]}', says: 'did you mean "out_of_memory"?' },
  { keys: 'retry: {on: [engine, ¦engine]}', says: 'retry.on[1]: is in the list already' },
  { keys: '¦session: {}', says: 'session: has no meaning without `mode: session`', editorCannotTell: true },
  { keys: '¦session:', says: 'session: has no meaning without `mode: session`', editorCannotTell: true },
  {
    keys: 'mode: one-off\n¦session: {idle: 1m}',
    says: 'session: has no meaning without `mode: session`',
    editorCannotTell: true,
  },
  { keys: 'mode: session\nsession: ¦4', says: 'session: expected a mapping such as {max_concurrency: 4}' },
  ...[
    { key: '¦concurrency: 4', says: 'concurrency: unknown key; did you mean "max_concurrency"?' },
    { key: 'max_concurrency: ¦0', says: 'max_concurrency: expected a whole number from 1 to 1024' },
    { key: 'max_concurrency: ¦1025', says: 'found 1025' },
    { key: 'max_workers: ¦0', says: 'max_workers: expected a whole number from 1 to 1024' },
    { key: 'max_workers: ¦1025', says: 'found 1025' },
    { key: 'idle: ¦none', says: 'idle: expected a length of time from 0s to 30d (or never)' },
    { key: 'idle: ¦31d', says: 'found "31d"', editorCannotTell: true as const },
    { key: 'max_tasks: ¦0', says: 'max_tasks: expected a whole number from 1 to 1000000000' },
    { key: 'max_age: ¦0', says: 'max_age: expected a length of time from 1s to 30d' },
    { key: 'max_age: ¦never', says: 'found "never"' },
    {
      key: 'min_residency: ¦25h',
      says: 'min_residency: expected a length of time from 0s to 1d',
      editorCannotTell: true as const,
    },
    { key: 'pinned: ¦1', says: 'pinned: expected true or false' },
    { key: 'prewarm: ¦-1', says: 'prewarm: expected a whole number from 0 to 64' },
    { key: 'prewarm: ¦65', says: 'found 65' },
    { key: 'isolation: ¦task', says: 'isolation: expected shared or owner, found "task"' },
    {
      key: 'max_tasks: 3, ¦max_concurrency: 4',
      says: 'max_concurrency: asks for 4 tasks at a time, but max_tasks ends a worker after 3',
      editorCannotTell: true as const,
    },
    {
      key: '¦prewarm: 3, max_workers: 2',
      says: 'prewarm: asks for 3 workers, but max_workers allows 2',
      editorCannotTell: true as const,
    },
    {
      key: 'isolation: owner, ¦prewarm: 1',
      says: 'prewarm: has no meaning with `isolation: owner`',
      editorCannotTell: true as const,
    },
  ].map(({ key, ...wrong }): WrongKeys => ({ keys: `mode: session\nsession: {${key}}`, ...wrong })),
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
  { keys: 'output: {size: ¦256}', says: 'output.size' },
  { keys: 'output: {events: ¦0}', says: 'output.events: expected a whole number from 1 to 100000000' },
  { keys: 'output: {¦lines: 3}', says: 'the keys here are size, events, artifacts, artifacts_size' },
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
