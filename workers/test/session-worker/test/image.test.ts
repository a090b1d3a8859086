import { once } from 'node:events'
import { PassThrough } from 'node:stream'
import { text } from 'node:stream/consumers'
import Docker from 'dockerode'
import { beforeAll, describe, expect, test } from 'vitest'
import { SESSION_WORKER_IMAGE, testEngine } from '../../../../tools/test-engine/src/index.ts'

const engine = testEngine()

describe.skipIf(engine === null)('the image session-worker', () => {
  beforeAll(async () => {
    await engine?.ensureImage(SESSION_WORKER_IMAGE)
  }, 300_000)

  test.each([
    ['its own command', []],
    ['the command that presets name', ['python', '/app/worker.py']],
    ['the program with the faults', ['python', '/app/faults.py']],
  ])('serves tasks as nobody, on a read-only root, without a network, by %s', async (_name, command) => {
    const docker = new Docker()
    const container = await docker.createContainer({
      Image: SESSION_WORKER_IMAGE,
      ...(command.length > 0 && { Cmd: command }),
      Env: ['LOAD_SECONDS=0'],
      User: '65534:65534',
      OpenStdin: true,
      HostConfig: { NetworkMode: 'none', ReadonlyRootfs: true, CapDrop: ['ALL'], Init: true },
    })
    try {
      const connection = await container.attach({ stream: true, stdin: true, stdout: true, hijack: true })
      const output = new PassThrough()
      const said = text(output)
      docker.modem.demuxStream(connection, output, new PassThrough().resume())
      await container.start()
      for (const id of ['a.1', 'b.1']) {
        connection.write(`${JSON.stringify({ command: 'run', task_id: id, input: { text: 'hello' } })}\n`)
      }
      connection.write('{"command":"shutdown"}\n')
      await once(connection, 'end')
      output.end()
      const lines = (await said).trimEnd().split('\n')
      const ends = lines.filter((line) => line.includes('"finish"'))
      expect(ends).toHaveLength(2)
      expect(lines[0]).toBe('{"event": "connection", "seq": 1, "status": "connected"}')
      expect((await container.wait()) as { StatusCode: number }).toMatchObject({ StatusCode: 0 })
    } finally {
      await container.remove({ force: true })
    }
  })
})
