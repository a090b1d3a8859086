export interface BundleVerdict {
  readonly ok: boolean
  /** What is right and what is wrong, for people. */
  readonly lines: readonly string[]
}

/** Verifies a task's bundle. `key`: a fingerprint, or a file with a public key; `artifacts`: a folder with the artifacts' files. */
export function verifyBundle(
  file: string,
  options?: { readonly key?: string | undefined; readonly artifacts?: string | undefined },
): Promise<BundleVerdict>
