import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
    name: 'conformance',
    include: ['test/**/*.test.ts'],
    globalSetup: ['../test-engine/src/vitest.ts', '../../workers/sdk/behaviours/test/build.ts'],
    testTimeout: 120_000,
  },
})
