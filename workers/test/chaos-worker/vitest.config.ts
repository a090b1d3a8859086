import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
    name: 'chaos-worker',
    include: ['test/**/*.test.ts'],
  },
})
