/** A secret that a preset gives to its workers: its name and where its value is; never the value. */
export interface SecretReference {
  /** The name of the worker's file. */
  readonly name: string
  /** `file`: a file of the host. `variable`: a variable of the service's own environment. */
  readonly from: 'file' | 'variable'
  /** The file's absolute path, or the variable's name. */
  readonly source: string
}

/**
 * A secret with its value. The value is in no field, so that nothing that prints, compares or serialises a secret (a log, an error's
 * cause, a test's diff) shows it.
 */
export class Secret {
  readonly name: string
  readonly #value: Uint8Array

  constructor(name: string, value: Uint8Array) {
    this.name = name
    this.#value = value
  }

  /** The bytes that the worker finds. */
  reveal(): Uint8Array {
    return this.#value
  }
}

/** What comes of reading a secret's source; `message` is a sentence without the value. */
export type SecretReading =
  | { readonly status: 'read'; readonly secret: Secret }
  | { readonly status: 'refused'; readonly message: string }

/** Knows where the values of secrets are. */
export interface SecretSources {
  /** Reads the value as it is now. What is wrong with the source is told, not thrown. */
  read(reference: SecretReference): Promise<SecretReading>
}

/** A secret's source as it stands in the presets file. */
export function secretSourceText({ from, source }: SecretReference): string {
  return from === 'file' ? source : `env:${source}`
}
