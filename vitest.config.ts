import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
    projects: ['{apps,libs,tools}/*/vitest.config.ts', 'workers/*/*/vitest.config.ts'],
    // Many tests start processes and containers of their own.
    maxWorkers: 2,
  },
})
