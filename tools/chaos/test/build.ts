import { buildApi } from '../../../tools/build-api.mjs'

/** A global setup for Vitest: what is broken here is the bundle that users run. */
export async function setup(): Promise<void> {
  await buildApi()
}
