import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: { name: 'artifacts', include: ['test/**/*.test.ts'] },
})
