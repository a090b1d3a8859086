import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
    name: 'client',
    include: ['test/**/*.test.ts'],
    globalSetup: ['../../apps/api/test/build.ts'],
    testTimeout: 60_000,
    hookTimeout: 60_000,
  },
})
