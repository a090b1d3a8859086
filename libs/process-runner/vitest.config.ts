import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: { name: 'process-runner', include: ['test/**/*.test.ts'] },
})
