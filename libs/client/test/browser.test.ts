import { join } from 'node:path'
import { build } from 'esbuild'
import { expect, test } from 'vitest'

test('is made of what browsers have, and small', async () => {
  const { outputFiles } = await build({
    entryPoints: [join(import.meta.dirname, '../src/index.ts')],
    bundle: true,
    platform: 'browser',
    format: 'esm',
    minify: true,
    write: false,
  })
  const [bundle] = outputFiles
  expect(bundle?.text).not.toMatch(/\bfrom\s*"|\brequire\(/)
  expect(bundle?.contents.length).toBeLessThan(40_000)
})
