import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: { name: 'event-parser', include: ['test/**/*.test.ts'] },
})
