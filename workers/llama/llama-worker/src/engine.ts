import { type ReportLoading, TaskFailed } from '@gpu-service/worker'
import type { ChatWrapper, Llama, LlamaCompletion, LlamaEmbeddingContext, LlamaModel } from 'node-llama-cpp'
import { allTogether } from './batching.ts'
import { findModelFile } from './model-file.ts'
import { createSequencePool, type SequencePool } from './sequence-pool.ts'
import type { Settings } from './settings.ts'

const MAX_DEFAULT_CONTEXT = 8_192

/** A model that is loaded, and what is computed with it. */
export interface Engine {
  readonly llama: Llama
  readonly model: LlamaModel
  /** Of the model's own template. */
  readonly chat: ChatWrapper
  /** Tokens that a prompt and what follows it have together. */
  readonly contextSize: number
  /** Tokens of a prompt that are computed in one step. */
  readonly batchSize: number
  readonly sequences: SequencePool
  readonly Completion: typeof LlamaCompletion
  /** Made when it is first asked for: it takes memory of its own. */
  embeddings(): Promise<LlamaEmbeddingContext>
}

/** Loads the model. Throws a `TaskFailed` with `OUT_OF_MEMORY` where it does not fit. */
export async function openEngine(settings: Settings, report: ReportLoading): Promise<Engine> {
  const modelPath = await findModelFile(settings.modelPath)
  const library = await import('node-llama-cpp')
  try {
    const llama = await library.getLlama({
      gpu: settings.onGpu ? 'cuda' : false,
      // Only what lies in the image is run.
      build: 'never',
      skipDownload: true,
      progressLogs: false,
      logLevel: 'warn',
      maxThreads: settings.threads,
    })
    let percent = 0
    const model = await llama.loadModel({
      modelPath,
      // A model of which a part stays on the CPU works, so slowly that nobody wants it.
      ...(settings.onGpu && { gpuLayers: 'max' }),
      onLoadProgress(share) {
        // It is told for each tensor, which may be thousands.
        if (Math.floor(share * 100) === percent) return
        percent = Math.floor(share * 100)
        report(share * 0.9, 'Reading weights')
      },
    })
    const context = await model.createContext({
      contextSize: settings.contextSize ?? { max: MAX_DEFAULT_CONTEXT },
      sequences: settings.slots,
      batching: { itemPrioritizationStrategy: allTogether(() => sequences.busy) },
    })
    const sequences = createSequencePool(Array.from({ length: settings.slots }, () => context.getSequence()))
    const chat = library.resolveChatWrapper(model)
    report(1)
    const { contextSize, batchSize } = context
    let embeddings: Promise<LlamaEmbeddingContext> | null = null
    return {
      llama,
      model,
      chat,
      contextSize,
      batchSize,
      sequences,
      Completion: library.LlamaCompletion,
      embeddings() {
        embeddings ??= model.createEmbeddingContext({ contextSize }).catch((error: unknown) => {
          embeddings = null
          throw error
        })
        return embeddings
      },
    }
  } catch (error) {
    if (error instanceof library.InsufficientMemoryError)
      throw new TaskFailed(error.message, 'OUT_OF_MEMORY', { cause: error })
    if (error instanceof library.NoBinaryFoundError && settings.onGpu)
      throw new Error(
        'The worker has a GPU, but cannot use it: take the image llama-worker:cuda, with a driver of CUDA 12.4 or newer, or a preset with `gpus: {count: 0}`',
        { cause: error },
      )
    throw error
  }
}
