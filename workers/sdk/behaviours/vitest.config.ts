import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
    name: 'worker-behaviours',
    include: ['test/**/*.test.ts'],
    globalSetup: ['../../../tools/test-engine/src/vitest.ts', 'test/build.ts'],
    testTimeout: 30_000,
  },
})
