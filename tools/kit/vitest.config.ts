import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
    name: 'kit',
    include: ['test/**/*.test.ts'],
    globalSetup: ['../test-engine/src/vitest.ts'],
    testTimeout: 120_000,
  },
})
