import { PassThrough } from 'node:stream'
import { text } from 'node:stream/consumers'
import Docker from 'dockerode'
import { beforeAll, describe, expect, test } from 'vitest'
import { LOADING_WORKER_IMAGE, testEngine } from '../../../../tools/test-engine/src/index.ts'

const engine = testEngine()

describe.skipIf(engine === null)('the image loading-worker', () => {
  beforeAll(async () => {
    await engine?.ensureImage(LOADING_WORKER_IMAGE)
  }, 300_000)

  async function run(command: string[], env: string[]): Promise<{ lines: string[]; exitCode: number }> {
    const output = new PassThrough()
    const said = text(output)
    const [end] = (await new Docker().run(
      LOADING_WORKER_IMAGE,
      command,
      [output, new PassThrough().resume()],
      {
        Env: ['INIT_SECONDS=0', 'LOAD_SECONDS=0', 'TOKEN_DELAY_SECONDS=0', 'CLEANUP_SECONDS=0', ...env],
        User: '65534:65534',
        Tty: false,
        HostConfig: { AutoRemove: true, NetworkMode: 'none', ReadonlyRootfs: true, CapDrop: ['ALL'] },
      },
    )) as [{ StatusCode: number }]
    output.end()
    return { lines: (await said).trimEnd().split('\n'), exitCode: end.StatusCode }
  }

  test.each([
    ['its own command', []],
    ['the command that presets name', ['python', '/app/worker.py']],
  ])('runs to its end as nobody, on a read-only root, without a network, by %s', async (_name, command) => {
    const { lines, exitCode } = await run(command, ['TEXT=from a container'])
    expect(lines[0]).toBe('{"event": "connection", "status": "connected"}')
    expect(lines).toContain('{"event": "text", "content": "from a container"}')
    expect(lines.at(-1)).toBe('{"event": "finish", "status": "completed"}')
    expect(exitCode).toBe(0)
  })

  test('passes a failure on as its exit code', async () => {
    const { lines, exitCode } = await run([], ['FAIL_AT=loading', 'EXIT_CODE=3'])
    expect(lines.at(-1)).toContain('"status": "failed"')
    expect(exitCode).toBe(3)
  })
})
