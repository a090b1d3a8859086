import { join } from 'node:path'
import { BASE_IMAGE, NODE_IMAGE, testEngine } from '@gpu-service/test-engine'
import Docker from 'dockerode'
import { beforeAll, describe, expect, test } from 'vitest'

const engine = testEngine()
const sdk = join(import.meta.dirname, '../..')

const ROWS = [
  { language: 'Python', image: BASE_IMAGE, command: ['python', '/app/workers/behaviours.py'] },
  { language: 'JavaScript', image: NODE_IMAGE, command: ['node', '/app/workers/behaviours.mjs'] },
] as const

describe.skipIf(engine === null)('a worker that is process 1 of its container', () => {
  beforeAll(async () => {
    for (const { image } of ROWS) await engine?.ensureImage(image)
  }, 600_000)

  test.each(ROWS)('ends on SIGTERM, with its task cancelled: $language', async ({ image, command }) => {
    const container = await new Docker().createContainer({
      Image: image,
      Cmd: [...command],
      Env: ['TASK_ID=a.1', 'TASK_INPUT={"do":"endless"}'],
      User: '65534:65534',
      HostConfig: {
        Init: false,
        NetworkMode: 'none',
        ReadonlyRootfs: true,
        CapDrop: ['ALL'],
        Binds: [
          `${sdk}/behaviours/workers:/app/workers:ro`,
          `${sdk}/python:/python:ro`,
          `${sdk}/typescript:/node_modules/@gpu-service/worker:ro`,
        ],
      },
    })
    try {
      await container.start()
      const output = await container.logs({ follow: true, stdout: true })
      let said = ''
      for await (const bytes of output) {
        said += String(bytes)
        if (said.includes('text_delta')) break
      }
      expect(said).toContain('text_delta')
      // SIGKILL would come after the minute only.
      const from = performance.now()
      await container.stop({ t: 60 })
      expect(performance.now() - from).toBeLessThan(30_000)
      const { State } = await container.inspect()
      expect(State.ExitCode).toBe(0)
      const all = (await container.logs({ follow: false, stdout: true })).toString()
      expect(all.trimEnd().split('\n').at(-1)).toMatch(/"finish".*"status": ?"cancelled"/)
    } finally {
      await container.remove({ force: true })
    }
  })
})
