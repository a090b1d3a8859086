/**
 * What the worker uses of node-llama-cpp 3.22.1. The package itself, 85 MB, is installed for the worker's program alone (`build.mjs`), so that
 * the checks of this repository do without it.
 */
declare module 'node-llama-cpp' {
  export type Token = number & { readonly tokenOf: 'node-llama-cpp' }

  export type LogLevel = 'fatal' | 'error' | 'warn' | 'info' | 'log' | 'debug'

  export function getLlama(options: {
    readonly gpu: 'cuda' | false
    readonly build: 'never'
    readonly skipDownload: true
    readonly progressLogs: false
    readonly logLevel: LogLevel
    readonly maxThreads: number
  }): Promise<Llama>

  export interface Llama {
    loadModel(options: {
      readonly modelPath: string
      readonly gpuLayers?: 'max'
      readonly onLoadProgress: (share: number) => void
    }): Promise<LlamaModel>
    createGrammarForJsonSchema(schema: object): Promise<LlamaJsonSchemaGrammar>
  }

  export interface LlamaJsonSchemaGrammar {
    parse(json: string): unknown
  }

  export interface Tokenizer {
    (text: string): Token[]
  }

  export interface LlamaModel {
    readonly tokenizer: Tokenizer
    readonly tokens: { readonly bos: Token | null; readonly shouldPrependBosToken: boolean }
    createContext(options: {
      /** Of each sequence. */
      readonly contextSize: number | { readonly max: number }
      readonly sequences: number
      readonly batching: { readonly itemPrioritizationStrategy: BatchingStrategy }
    }): Promise<LlamaContext>
    createEmbeddingContext(options: { readonly contextSize: number }): Promise<LlamaEmbeddingContext>
  }

  /** What a sequence wants to have computed. */
  export interface BatchItem {
    readonly tokens: readonly Token[]
  }

  /** Chooses at most `size` tokens for the next step. With none it is asked again, after what waits in the microtask queue. */
  export type BatchingStrategy = (waiting: {
    readonly items: readonly BatchItem[]
    readonly size: number
  }) => {
    readonly item: BatchItem
    readonly processAmount: number
  }[]

  export interface LlamaContext {
    readonly contextSize: number
    readonly batchSize: number
    getSequence(): LlamaContextSequence
  }

  export interface LlamaContextSequence {
    readonly nextTokenIndex: number
    readonly tokenMeter: { readonly usedOutputTokens: number }
    compareContextTokens(tokens: Token[]): { readonly firstDifferentIndex: number }
    adaptStateToTokens(tokens: Token[], allowShift: boolean): Promise<void>
    evaluateWithoutGeneratingNewTokens(tokens: Token[]): Promise<void>
  }

  export interface LlamaEmbeddingContext {
    calculateInputLength(input: string): number
    getEmbeddingFor(input: string): Promise<{ readonly vector: readonly number[] }>
  }

  export class LlamaCompletion {
    constructor(options: { readonly contextSequence: LlamaContextSequence })
    /** What stands in `input` comes behind the model's token of the beginning, where it has one. */
    generateCompletionWithMeta(
      input: Token[],
      options: {
        readonly onTextChunk: (text: string) => void
        readonly signal: AbortSignal
        readonly stopOnAbortSignal: true
        readonly maxTokens: number
        readonly temperature: number
        readonly topP: number
        readonly topK: number
        readonly minP: number
        readonly seed: number
        readonly repeatPenalty: false | { readonly penalty: number }
        readonly grammar?: LlamaJsonSchemaGrammar
        readonly customStopTriggers: readonly LlamaText[]
        readonly contextShiftSize: number
        readonly disableContextShift: true
      },
    ): Promise<{
      readonly response: string
      readonly metadata: {
        readonly stopReason:
          'eogToken' | 'stopGenerationTrigger' | 'customStopTrigger' | 'maxTokens' | 'abort'
      }
    }>
    dispose(): void
  }

  export interface LlamaText {
    tokenize(tokenizer: Tokenizer): Token[]
  }

  export type ChatHistoryItem =
    | { readonly type: 'system' | 'user'; readonly text: string }
    | { readonly type: 'model'; readonly response: readonly string[] }

  export interface ChatWrapper {
    /** The last item is the answer that is to be written, or its beginning. */
    generateContextState(chat: { readonly chatHistory: readonly ChatHistoryItem[] }): {
      readonly contextText: LlamaText
      readonly stopGenerationTriggers: readonly LlamaText[]
    }
  }

  /** The template that the model brings along, or one of those that are known for its kind. */
  export function resolveChatWrapper(model: LlamaModel): ChatWrapper

  export class InsufficientMemoryError extends Error {}
  export class NoBinaryFoundError extends Error {}
}
