import { createRequire } from 'node:module'
import { setTimeout } from 'node:timers/promises'

/** How long what the engine logs is on its way, at most. */
const LOG_MS = 2_000

/** What the engine computes on. Each is a package of its own, in `engine/<backend>`. */
export type Backend = 'cpu' | 'cuda' | 'vulkan'

/** Of one stretch of speech; times in milliseconds from the beginning of the audio. */
export interface NativeSegment {
  readonly text: string
  readonly t0: number
  readonly t1: number
}

interface NativeTranscript {
  readonly language?: string
  readonly segments: readonly NativeSegment[]
  readonly isAborted: boolean
}

export interface TranscribeOptions {
  /** A code that the engine knows, or `auto`. With another one it never comes to an end. */
  readonly language: string
  readonly translate: boolean
  /** Words that it is told to have heard before. */
  readonly prompt?: string
  readonly beamSize?: number
  readonly temperature: number
  /** What a passage is tried again with where the model is unsure of it; 0: it is not. */
  readonly temperatureInc: number
  readonly maxThreads: number
  /** In percent. */
  readonly onProgress: (percent: number) => void
  readonly onNewSegments: (found: { readonly segments: readonly NativeSegment[] }) => void
}

interface NativeContext {
  transcribeFile(
    path: string,
    options: TranscribeOptions,
  ): { readonly promise: Promise<NativeTranscript>; stop(): Promise<void> }
}

interface NativeModule {
  readonly WhisperContext: {
    new (options: { readonly filePath: string; readonly useGpu: boolean }): NativeContext
    /** Has its log told to `listener`, a while later, instead of written to standard error. */
    toggleNativeLog(isOn: boolean, listener: (level: string, text: string) => void): void
  }
}

/** A model that is loaded. It transcribes one file at a time: given a second one, it never comes to an end with either. */
export interface Model {
  /** Gives the language. Rejects with the signal's reason, as soon as the engine has stopped, where it is aborted. */
  transcribe(path: string, options: TranscribeOptions, signal: AbortSignal): Promise<string | null>
}

/**
 * Loads a model file, and does not come back before it has: the engine works in this thread meanwhile. Throws where the engine's library does not
 * load (one that it needs is missing), where the file is no model, and where the engine finds no GPU although it is to use one.
 */
export async function loadModel(file: string, backend: Backend): Promise<Model> {
  // The package's own entry would fall back to the CPU where this fails, and say so on standard error only.
  const require = createRequire(new URL(`../engine/${backend}/`, import.meta.url))
  const suffix = backend === 'cpu' ? '' : `-${backend}`
  const { WhisperContext } = require(`@fugood/node-whisper-linux-x64${suffix}`) as NativeModule

  const usesGpu = backend === 'cpu' ? null : hearWhetherGpu(WhisperContext)
  let context: NativeContext
  try {
    context = new WhisperContext({ filePath: file, useGpu: backend !== 'cpu' })
  } catch (error) {
    // Why, it has said in its log, which arrives later.
    if (usesGpu !== null) await setTimeout(LOG_MS)
    throw error
  }
  if (usesGpu !== null && !(await usesGpu))
    throw new Error(`the engine finds no GPU that it can use by ${backend}`)

  return {
    async transcribe(path, options, signal) {
      signal.throwIfAborted()
      const job = context.transcribeFile(path, options)
      const onAbort = (): void => {
        // What it rejects with, the job rejects with.
        job.stop().catch(() => undefined)
      }
      signal.addEventListener('abort', onAbort)
      try {
        const { language, isAborted } = await job.promise
        signal.throwIfAborted()
        if (isAborted) throw new Error('the engine has stopped by itself')
        return language ?? null
      } finally {
        signal.removeEventListener('abort', onAbort)
      }
    },
  }
}

/** The engine goes on with the CPU where it finds no GPU, and says so in its log only. */
function hearWhetherGpu(context: NativeModule['WhisperContext']): Promise<boolean> {
  return new Promise((resolve) => {
    context.toggleNativeLog(true, (_level, text) => {
      process.stderr.write(text)
      if (text.includes('no GPU found')) resolve(false)
      // The last that it says of a model that is loaded.
      else if (text.includes('compute buffer (decode)')) resolve(true)
    })
  })
}
