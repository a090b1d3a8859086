import { join } from 'node:path'
import { defineConfig } from 'vitest/config'

export default defineConfig({
  resolve: {
    // The SDK's sources: it need not have been built.
    alias: { '@gpu-service/worker': join(import.meta.dirname, '../../sdk/typescript/src/index.ts') },
  },
  test: {
    name: 'diffusion-worker',
    include: ['test/**/*.test.ts'],
    globalSetup: [
      '../../../tools/test-engine/src/vitest.ts',
      '../../../apps/api/test/build.ts',
      'test/build.ts',
    ],
    testTimeout: 60_000,
    hookTimeout: 60_000,
  },
})
