import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import { expect, test } from 'vitest'
import type { Upload } from '@gpu-service/tasks'
import type { AnnouncedUpload, UploadIntake } from '../../src/uploads.ts'
import { startWorld } from './harness.ts'

const BODY_MS = 300

/** Takes all that comes, and gives an upload of it. */
function intake(): UploadIntake & { readonly seen: AnnouncedUpload[] } {
  const seen: AnnouncedUpload[] = []
  return {
    seen,
    async receive(announced, chunks) {
      seen.push(announced)
      let bytes = 0
      for await (const chunk of chunks) bytes += chunk.length
      const { owner, name, mediaType } = announced
      return {
        id: 'u',
        owner,
        name,
        mediaType,
        bytes,
        sha256: '00',
        createdAt: 0,
        expiresAt: 0,
      } as unknown as Upload
    },
    refused: () => Promise.resolve(),
  }
}

const openWorld = (uploads: UploadIntake = intake()) => startWorld({ uploads, limits: { bodyMs: BODY_MS } })

/** A request as bytes, of which the body is still to come. */
function begin(port: number, path: string, more: string): { socket: Socket; answer: Promise<string> } {
  const socket = connect(port, '127.0.0.1')
  socket.on('error', () => undefined)
  socket.write(`POST ${path} HTTP/1.1\r\nHost: localhost\r\n${more}\r\n\r\n`)
  let text = ''
  socket.setEncoding('utf8').on('data', (data: string) => (text += data))
  return { socket, answer: once(socket, 'close').then(() => text) }
}

test('takes a file for as long as it comes', async () => {
  const uploads = intake()
  await using world = await openWorld(uploads)
  const { socket, answer } = begin(
    world.server.port,
    '/uploads?name=long.bin',
    'Content-Type: Audio/WAV; x=y\r\nContent-Length: 200000\r\nConnection: close',
  )
  for (let piece = 0; piece < 10; piece++) {
    socket.write(Buffer.alloc(20_000))
    await delay(BODY_MS / 4)
  }
  expect(await answer).toMatch(/^HTTP\/1\.1 201 .*"bytes":200000/s)
  expect(uploads.seen).toEqual([
    { owner: 'local', name: 'long.bin', mediaType: 'audio/wav', bytes: 200_000, sha256: null },
  ])
})

test.each([
  ['nothing more comes', 0],
  ['next to nothing comes', 1],
])('gives a file up of which %s', async (_what, bytes) => {
  await using world = await openWorld()
  const { socket, answer } = begin(
    world.server.port,
    '/uploads?name=slow.bin',
    'Content-Type: audio/wav\r\nTransfer-Encoding: chunked',
  )
  const dripping = setInterval(() => {
    if (bytes > 0) socket.write('1\r\nx\r\n')
  }, BODY_MS / 10)
  expect(await answer).toMatch(/^HTTP\/1\.1 408 .*UPLOAD_STALLED/s)
  clearInterval(dripping)
})

test('cuts off any other body that is not there in time', async () => {
  await using world = await openWorld()
  const { socket, answer } = begin(
    world.server.port,
    '/graphql',
    'Content-Type: application/json\r\nContent-Length: 2000',
  )
  const dripping = setInterval(() => socket.write(' '), BODY_MS / 10)
  expect(await answer).toMatch(/^HTTP\/1\.1 408 /)
  clearInterval(dripping)
})

test('wants to know where a file ends', async () => {
  await using world = await openWorld()
  const { answer } = begin(world.server.port, '/uploads?name=x', 'Content-Type: audio/wav')
  expect(await answer).toMatch(/^HTTP\/1\.1 411 .*LENGTH_REQUIRED/s)
})
