import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: { name: 'test-engine', include: ['test/**/*.test.ts'], globalSetup: ['src/vitest.ts'] },
})
