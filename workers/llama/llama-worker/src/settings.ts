import { availableParallelism } from 'node:os'

/** What a preset says to the worker in its environment. */
export interface Settings {
  /** A GGUF file, or a folder with one. */
  readonly modelPath: string
  /** Whether the weights go to a GPU, all of them. */
  readonly onGpu: boolean
  /** Tasks at a time. Each has a context of its own. */
  readonly slots: number
  /** Tokens that a task's prompt and answer have together; `null`: what the model was made for, up to 8,192. */
  readonly contextSize: number | null
  /** CPU threads that compute. */
  readonly threads: number
}

/** Throws where a variable is no number that makes sense. */
export function readSettings(env: NodeJS.ProcessEnv): Settings {
  const { MODEL_PATH, GPU_DEVICE } = env
  if (!MODEL_PATH) throw new Error('MODEL_PATH is not set: it names a GGUF file, or a folder with one')
  return {
    modelPath: MODEL_PATH,
    onGpu: Boolean(GPU_DEVICE),
    slots: count(env, 'SLOTS') ?? 1,
    contextSize: count(env, 'CONTEXT_SIZE'),
    // More threads than cores make the engine a thousand times slower.
    threads: count(env, 'THREADS') ?? availableParallelism(),
  }
}

function count(env: NodeJS.ProcessEnv, name: string): number | null {
  const text = env[name]
  if (text === undefined || text === '') return null
  if (!/^[1-9]\d{0,6}$/.test(text)) throw new Error(`${name} must be a whole number from 1 on, not ${text}`)
  return Number(text)
}
