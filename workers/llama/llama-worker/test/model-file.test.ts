import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { findModelFile } from '../src/model-file.ts'
import { writeTinyModel } from '../src/testing/tiny-model.ts'

let folder: string
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'llama-models-'))
})
afterEach(() => rm(folder, { recursive: true }))

test('is the file at the path, or the one in the folder', async () => {
  const file = join(folder, 'a.gguf')
  await writeTinyModel(file)
  expect(await findModelFile(file)).toBe(file)
  expect(await findModelFile(folder)).toBe(file)
})

test('of several parts is the first, and what is for pictures is passed over', async () => {
  await writeTinyModel(join(folder, 'a-00001-of-00002.gguf'))
  for (const other of ['a-00002-of-00002.gguf', 'mmproj-a.gguf', 'README.md']) {
    await writeFile(join(folder, other), '')
  }
  expect(await findModelFile(folder)).toBe(join(folder, 'a-00001-of-00002.gguf'))
})

test('is asked for where there is none, or a choice', async () => {
  await expect(findModelFile(join(folder, 'absent'))).rejects.toThrow('there is no model at')
  await expect(findModelFile(folder)).rejects.toThrow('there is no GGUF file in the folder')
  for (const name of ['b.gguf', 'a.gguf']) await writeFile(join(folder, name), '')
  await expect(findModelFile(folder)).rejects.toThrow('holds a.gguf, b.gguf: let MODEL_PATH name one')
})

test.each([
  ['empty', ''],
  ['a page of HTML', '<!doctype html>'.repeat(9)],
  ['of another version', `GGUF\u0009\0\0\0${'\0'.repeat(16)}`],
  ['one that claims more than there can be', `GGUF\u0003\0\0\0${'\u00ff'.repeat(16)}`],
])('is refused where it is %s', async (_what, content) => {
  const file = join(folder, 'a.gguf')
  await writeFile(file, content, 'latin1')
  await expect(findModelFile(file)).rejects.toThrow('is no GGUF file')
})
