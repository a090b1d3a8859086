import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
    name: 'docker-runner',
    include: ['test/**/*.test.ts'],
    globalSetup: ['../../tools/test-engine/src/vitest.ts'],
  },
})
