import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
    name: 'text-trainer',
    include: ['test/**/*.test.ts'],
    globalSetup: ['../../../tools/test-engine/src/vitest.ts', '../../../apps/api/test/build.ts'],
    testTimeout: 60_000,
    hookTimeout: 60_000,
  },
})
