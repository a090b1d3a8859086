import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: { name: 'presets', include: ['test/**/*.test.ts'] },
})
