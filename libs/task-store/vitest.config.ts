import { defineConfig } from 'vitest/config'

export default defineConfig({
  // The tests wait for a disk, which others may keep busy.
  test: { name: 'task-store', include: ['test/**/*.test.ts'], testTimeout: 30_000 },
})
