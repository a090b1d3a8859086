import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: { name: 'tasks', include: ['test/**/*.test.ts'] },
})
