import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: { name: 'task-store', include: ['test/**/*.test.ts'] },
})
