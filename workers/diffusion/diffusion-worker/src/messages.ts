/** One image to make. */
export interface Job {
  readonly prompt: string
  readonly negative_prompt: string
  readonly width: number
  readonly height: number
  readonly steps: number
  readonly cfg_scale: number
  readonly sampling_method: string
  readonly seed: number
  /** What it begins with: the bytes of a PNG or JPEG of that size, in base64. */
  readonly init: { readonly image: string; readonly strength: number } | null
}

/** What the worker says to the engine's process, one JSON object a line. */
export type Command =
  | {
      readonly command: 'load'
      readonly model: string
      readonly onGpu: boolean
      readonly threads: number
    }
  | { readonly command: 'paint'; readonly job: Job }
  | { readonly command: 'cancel' }

/** What the engine's process says to the worker. A `paint` ends with `painted` or `failed`, a `load` with `loaded` or `failed`. */
export type Said =
  | { readonly said: 'loaded' }
  | { readonly said: 'step'; readonly step: number; readonly steps: number }
  /** A PNG, in base64. */
  | { readonly said: 'painted'; readonly png: string }
  | { readonly said: 'failed'; readonly message: string }
  | { readonly said: 'log'; readonly isError: boolean; readonly text: string }
