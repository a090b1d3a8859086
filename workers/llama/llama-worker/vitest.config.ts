import { join } from 'node:path'
import { defineConfig } from 'vitest/config'

export default defineConfig({
  resolve: {
    alias: { '@gpu-service/worker': join(import.meta.dirname, '../../sdk/typescript/src/index.ts') },
  },
  test: { name: 'llama-worker', include: ['test/**/*.test.ts'] },
})
