import { createHash } from 'node:crypto'
import { Readable } from 'node:stream'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { GpuClient, UploadBody } from '../src/index.ts'
import { connect, Service } from './service.ts'

const BYTES = new Uint8Array(200_000).map((_, index) => index % 253)
const SHA256 = createHash('sha256').update(BYTES).digest('hex')

function* pieces(): Generator<Buffer, void> {
  for (let from = 0; from < BYTES.length; from += 30_000)
    yield Buffer.from(BYTES.subarray(from, from + 30_000))
}

describe('a file that a client gives', () => {
  let service: Service
  let client: GpuClient
  beforeAll(async () => {
    service = await Service.start(
      {
        counting: `echo '{"event":"text","content":"'$(cat "$INPUT_DIR/clip" | wc -c)'"}'; echo '{"event":"finish","status":"completed"}'`,
      },
      { UPLOAD_MAX_GB: '0.001' },
    )
    client = connect(service.url)
  })
  afterAll(async () => {
    client.close()
    await service[Symbol.asyncDispose]()
  })

  test.each<[string, () => UploadBody]>([
    ['bytes', () => BYTES],
    ['a Blob', () => new Blob([BYTES])],
    ['a stream of the web', () => new Blob([BYTES]).stream()],
    ['a stream of Node.js', () => Readable.from(pieces())],
  ])('may be %s', async (_what, body) => {
    const options = { name: 'a clip.bin', mediaType: 'audio/wav' }
    expect(await client.upload(body(), options)).toMatchObject({
      ...options,
      bytes: BYTES.length,
      sha256: SHA256,
    })
  })

  test('reaches the worker of a task', async () => {
    const { id } = await client.upload(new Blob([BYTES], { type: 'text/plain' }), { name: 'f' })
    const submitted = await client.submitTask({
      presetId: 'test/counting',
      files: [{ uploadId: id, name: 'clip' }],
    })
    if (submitted.__typename !== 'SubmitTaskSuccess') throw new Error(submitted.message)
    let text = ''
    for await (const piece of client.followText(submitted.task.id)) text += piece.text
    expect(text).toBe(String(BYTES.length))
    expect((await client.task(submitted.task.id))?.files).toMatchObject([
      { uploadId: id, name: 'clip', mediaType: 'text/plain', sha256: SHA256 },
    ])
  })

  test('is refused in the words of the service, and broken off by its signal', async () => {
    await expect(client.upload(new Uint8Array(2_000_000), { name: 'f' })).rejects.toMatchObject({
      name: 'GpuClientError',
      code: 'UPLOAD_TOO_LARGE',
      isPassing: false,
    })
    await expect(
      client.upload(BYTES, { name: 'f', signal: AbortSignal.abort(new Error('enough')) }),
    ).rejects.toThrow('enough')
  })
})
