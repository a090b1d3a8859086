import { availableParallelism } from 'node:os'

/** What a preset says to the worker in its environment. */
export interface Settings {
  readonly modelFile: string
  readonly onGpu: boolean
  /** CPU threads that compute. */
  readonly threads: number
  /** How long the engine may take to heed a cancel, in milliseconds. */
  readonly cancelMs: number
}

/** Throws where a variable is no number that makes sense. */
export function readSettings(env: NodeJS.ProcessEnv): Settings {
  const { MODEL_PATH: modelFile = '', GPU_DEVICE } = env
  return {
    modelFile,
    onGpu: Boolean(GPU_DEVICE),
    threads: count(env, 'THREADS') ?? availableParallelism(),
    // Less than the service gives a worker before it kills it: 10 s.
    cancelMs: (count(env, 'CANCEL_SECONDS') ?? 8) * 1000,
  }
}

function count(env: NodeJS.ProcessEnv, name: string): number | null {
  const text = env[name]
  if (text === undefined || text === '') return null
  if (!/^[1-9]\d{0,6}$/.test(text)) throw new Error(`${name} must be a whole number from 1 on, not ${text}`)
  return Number(text)
}
