/** Bundles the service and gives the bundle's path. Paths are absolute; the bundle must lie three folders below the root. */
export function buildApi(options?: { readonly entry?: string; readonly outfile?: string }): Promise<string>
