import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: { name: 'gpus', include: ['test/**/*.test.ts'] },
})
