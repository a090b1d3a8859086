import { PassThrough } from 'node:stream'
import { text } from 'node:stream/consumers'
import Docker from 'dockerode'
import { describe, expect, test } from 'vitest'
import { BUSYBOX_IMAGE, testEngine } from '../src/index.ts'

const engine = testEngine()

describe.skipIf(engine === null)('the engine of the test run', () => {
  test('runs a shell and the usual programs without a network', async () => {
    const docker = new Docker()
    const output = new PassThrough()
    const said = text(output)
    const [end] = (await docker.run(BUSYBOX_IMAGE, ['sh', '-c', 'echo it works | tr a-z A-Z'], output, {
      Tty: true,
      HostConfig: { AutoRemove: true, NetworkMode: 'none' },
    })) as [{ StatusCode: number }]
    output.end()
    expect(end.StatusCode).toBe(0)
    expect(await said).toBe('IT WORKS\r\n')
  })
})
