export interface BundleVerdict {
  readonly ok: boolean
  /** What is right and what is wrong, for people. */
  readonly lines: readonly string[]
}

/** Verifies a task's bundle, which is in a file or in memory. `key`: a fingerprint, or a file with a public key; `artifacts`: a folder with the artifacts' files. */
export function verifyBundle(
  source: string | Uint8Array,
  options?: { readonly key?: string | undefined; readonly artifacts?: string | undefined },
): Promise<BundleVerdict>
