import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import { get, request, type IncomingMessage } from 'node:http'
import { Readable } from 'node:stream'
import { json } from 'node:stream/consumers'
import { pipeline } from 'node:stream/promises'
import { setTimeout as delay } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { CONNECTED, FINISHED, script } from './scripts.ts'
import { TestService } from './service.ts'
import type { SeenUpload } from './uploads.ts'

const GIB = 1024 ** 3
const SIZE = 2 * GIB
/** SHA-256 of so many zeros. */
const ZEROS = 'a7c744c13cc101ed66c29f672f92455547889cc586ce6d44fe76ae824958ea51'
/** By how much the service's memory may grow. */
const GROWTH_MB = 64

describe('a file of 2 GiB', () => {
  let service: TestService
  beforeAll(async () => {
    service = await TestService.start({
      runner: 'process',
      presets: {
        copying: script(
          `${CONNECTED}; size=$(stat -L -c %s "$INPUT_DIR"/*); truncate -s "$size" "$OUTPUT_DIR/out.bin"; echo '{"event":"artifact","path":"out.bin"}'; ${FINISHED}`,
        ),
      },
    })
  })
  afterAll(() => service[Symbol.asyncDispose]())

  async function send(bytes: number): Promise<SeenUpload> {
    const url = new URL('/uploads?name=zeros.bin', service.url)
    const headers = { 'content-type': 'application/octet-stream', 'content-length': bytes }
    const call = request(url, { method: 'POST', headers })
    const answered = once(call, 'response') as Promise<[IncomingMessage]>
    const piece = Buffer.alloc(1024 ** 2)
    await pipeline(
      Readable.from(
        (function* () {
          for (let left = bytes; left > 0; left -= piece.length) yield piece.subarray(0, left)
        })(),
      ),
      call,
    )
    const [answer] = await answered
    expect(answer.statusCode).toBe(201)
    return (await json(answer)) as SeenUpload
  }

  /** How many bytes come. */
  async function receive(path: string): Promise<number> {
    const [answer] = (await once(get(new URL(path, service.url)), 'response')) as [IncomingMessage]
    expect(answer.statusCode).toBe(200)
    let bytes = 0
    for await (const chunk of answer) bytes += (chunk as Buffer).length
    return bytes
  }

  /** In, to a worker, and what that makes of it out again. */
  async function roundTrip(
    bytes: number,
  ): Promise<{ sent: SeenUpload; artifactSha256: string; received: number }> {
    const sent = await send(bytes)
    const { id, status } = await service.run('copying', { files: [{ uploadId: sent.id }] })
    expect(status).toBe('COMPLETED')
    const { task } = await service.query<{
      task: { artifacts: { url: string; sha256: string }[] }
    }>('query ($id: ID!) { task(id: $id) { artifacts { url sha256 } } }', { id })
    const [artifact] = task.artifacts
    return { sent, artifactSha256: artifact?.sha256 ?? '', received: await receive(artifact?.url ?? '') }
  }

  async function residentMb(): Promise<number> {
    const status = await readFile(`/proc/${service.pid}/status`, 'utf8')
    return Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1]) / 1_024
  }

  test.skipIf(process.platform !== 'linux')(
    `goes in and out while the service grows by no more than ${GROWTH_MB} MB`,
    async () => {
      await roundTrip(64 * 1024 ** 2)
      const before = await residentMb()
      const watching = new AbortController()
      let most = 0
      const watch = (async () => {
        while (!watching.signal.aborted) {
          most = Math.max(most, await residentMb())
          await delay(50)
        }
      })()
      const { sent, artifactSha256, received } = await roundTrip(SIZE)
      watching.abort()
      await watch
      expect(sent).toMatchObject({ bytes: SIZE, sha256: ZEROS })
      expect(artifactSha256).toBe(ZEROS)
      expect(received).toBe(SIZE)
      expect(most - before).toBeLessThan(GROWTH_MB)
    },
    120_000,
  )
})
