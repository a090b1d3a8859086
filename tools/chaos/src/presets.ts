import { writeFile } from 'node:fs/promises'

const IN_CONTAINER = '/markers'

/** Short grace periods, so that a run sees many ends; long deadlines, so that only those strike that are meant to. */
const TIMEOUTS = { start: '90s', acknowledge: '5s', stop_grace: '2s', finish_grace: '2s' }

/** Every kind of preset that the load uses, by kind; the model is `chaos`. */
export const PRESETS = {
  plain: {},
  /** Tried again when its worker fails. */
  retried: { retry: { max_attempts: 3, backoff: '0s', on: ['worker_failed', 'out_of_memory', 'engine'] } },
  /** May not be silent for long. */
  watched: { timeouts: { ...TIMEOUTS, silence: '4s' } },
  /** Killed by the kernel where it takes more. */
  small: { resources: { memory: '64MiB' } },
  warm: session({ max_concurrency: 1, max_workers: 2, idle: '30s' }),
  pair: session({ max_concurrency: 2, max_workers: 1, idle: '5s', max_tasks: 12 }),
  listening: session({ max_concurrency: 1, max_workers: 1, idle: '10s' }, { silence: '4s' }),
} as const satisfies Record<string, object>

export type PresetName = keyof typeof PRESETS

function session(keys: object, timeouts: object = {}): object {
  return {
    mode: 'session',
    session: { min_residency: '1s', ...keys },
    timeouts: { ...TIMEOUTS, ...timeouts },
    retry: { max_attempts: 12, backoff: '0s', on: ['session_died', 'unacknowledged', 'engine'] },
  }
}

/** Writes the presets file. The workers leave their markers in the folder `markers` of the host. */
export async function writePresets(
  file: string,
  options: { readonly runner: 'docker' | 'process'; readonly image: string; readonly markers: string },
): Promise<void> {
  const { runner, image, markers } = options
  const common = {
    docker_image: image,
    command: ['python', '/app/worker.py'],
    local: ['python3', 'worker.py'],
    gpus: { count: 0 },
    env_vars: { MARKERS_DIR: runner === 'docker' ? IN_CONTAINER : markers, LOAD_SECONDS: '0.2' },
    timeouts: TIMEOUTS,
    retry: { max_attempts: 1 },
    ...(runner === 'docker' && {
      volumes: [{ source: markers, target: IN_CONTAINER, read_only: false }],
    }),
  }
  const models = {
    chaos: Object.fromEntries(Object.entries(PRESETS).map(([kind, more]) => [kind, { ...common, ...more }])),
  }
  // JSON is YAML.
  await writeFile(file, JSON.stringify({ models }, null, 2))
}
