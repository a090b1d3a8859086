import { buildApi } from '../../../tools/build-api.mjs'

/** A global setup for Vitest: the end-to-end tests run the bundle that users run. */
export async function setup(): Promise<void> {
  await buildApi()
}
