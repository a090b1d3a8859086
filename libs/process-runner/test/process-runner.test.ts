import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describeWorkerRunner } from '@gpu-service/tasks/testing'
import { INSTALLATION, openRunner } from './rig.ts'

describeWorkerRunner('process runner', {
  image: 'script:test',
  modelsPath: '/srv/models',
  async open() {
    const dataDir = await mkdtemp(join(tmpdir(), 'process-runner-'))
    return {
      installation: INSTALLATION,
      runner: openRunner(dataDir),
      reopen: () => Promise.resolve(openRunner(dataDir)),
      stranger: () => Promise.resolve(openRunner(dataDir, undefined, 'other999')),
      async [Symbol.asyncDispose]() {
        await rm(dataDir, { recursive: true })
      },
    }
  },
})
