import { join } from 'node:path'
import { buildApi } from '../../../tools/build-api.mjs'

/** The service with failpoints between its domain and its ports. */
export const FAILPOINTS_BUNDLE = join(import.meta.dirname, '../dist/failpoints.js')

/** A global setup for Vitest: the end-to-end tests run the bundle that users run, and beside it one that can be made to fail. */
export async function setup(): Promise<void> {
  await buildApi()
  await buildApi({ entry: join(import.meta.dirname, 'failpoints/main.ts'), outfile: FAILPOINTS_BUNDLE })
}
