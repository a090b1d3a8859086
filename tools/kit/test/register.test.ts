import { chmod, mkdir, mkdtemp, readdir, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { parseDocument } from 'yaml'
import { insertPresets, registerWorker } from '../src/index.ts'

const FURTHER = `models:
  chat:
    # Small.
    inference:
      docker_image: 'chat:latest' # ours
      gpus: { count: 0 }
`

const COMMENTED = `# The head.
models:
    # Four spaces, and odd ones at that.
    old:
        inference:   {docker_image: "old:latest",   gpus: {count: 0}}   # in one line


        # Not yet: train
    last:
        inference:
            docker_image: 'last:latest'
            description: |
                Two
                lines # and no comment
# The tail.
`

describe('what is put into a presets file', () => {
  test('stands behind the last preset, as far to the right, and no line of the file changes', () => {
    const { text, added } = insertPresets(COMMENTED, FURTHER)
    expect(added).toEqual(['chat/inference'])
    expect(text.replace(/ {4}chat:\n(?: {5,}.*\n)+/, '')).toBe(COMMENTED)
    expect(text).toContain("docker_image: 'chat:latest' # ours")
    expect(parseDocument(text).toJS()).toMatchObject({
      models: { chat: { inference: { docker_image: 'chat:latest' } }, last: {}, old: {} },
    })
  })

  test('joins the model that is there already', () => {
    const before =
      'models:\n  chat:\n    training:\n      docker_image: x # kept\n  z:\n    a: { docker_image: y }\n'
    const { text } = insertPresets(before, FURTHER)
    expect(text).toMatch(/^models:\n {2}chat:\n {4}training:\n {6}docker_image: x # kept\n {4}inference:\n/)
    expect(text.endsWith('  z:\n    a: { docker_image: y }\n')).toBe(true)
  })

  test.each([
    ['an empty file', ''],
    ['no models', 'models:\n'],
    ['models in one line', '# head\nmodels: { a: { b: { docker_image: x } } }\n'],
    ['no newline at its end', 'models:\n  a:\n    b:\n      docker_image: x'],
    ['lines of Windows', 'models:\r\n  a:\r\n    b:\r\n      docker_image: x\r\n'],
  ])('gets into %s', (_what, before) => {
    const { text } = insertPresets(before, FURTHER)
    const { models } = parseDocument(text).toJS() as { models: Record<string, unknown> }
    expect(models).toMatchObject({ chat: { inference: { gpus: { count: 0 } } } })
    if (before.includes('b:')) expect(models).toMatchObject({ a: { b: { docker_image: 'x' } } })
    if (before.includes('\r')) expect(text).not.toMatch(/[^\r]\n/)
  })

  test('is nothing where it is there already, and refused where something else is', () => {
    const { text } = insertPresets(COMMENTED, FURTHER)
    expect(insertPresets(text, FURTHER)).toEqual({ text, added: [], present: ['chat/inference'] })
    expect(() => insertPresets(text, FURTHER.replace('count: 0', 'count: 1'))).toThrow(
      'The preset chat/inference is there already and says something else',
    )
  })
})

describe('a worker is registered', () => {
  let folder: string
  let file: string
  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), 'kit-register-'))
    await mkdir(join(folder, 'config'))
    file = join(folder, 'config/model_presets.yaml')
    await writeFile(file, COMMENTED)
    await writeFile(join(folder, 'presets.yaml'), FURTHER)
  })
  afterEach(() => rm(folder, { recursive: true }))

  const register = () =>
    registerWorker(
      { name: 'chat', image: 'chat:latest', description: null, folder, localCommand: null },
      { file, volumeRoots: [], secretRoots: [], secretEnvPrefix: 'WORKER_SECRET_' },
    )

  test('in one step, with the rights that the file had, through a link', async () => {
    await chmod(file, 0o664)
    const link = join(folder, 'link.yaml')
    await symlink(file, link)
    file = link
    expect(await register()).toMatchObject({ added: ['chat/inference'] })
    expect(await register()).toMatchObject({ added: [], present: ['chat/inference'] })
    expect((await stat(file)).mode & 0o777).toBe(0o664)
    expect(await readdir(join(folder, 'config'))).toEqual(['model_presets.yaml'])
  })

  test.each([
    [
      'its presets are not valid',
      'presets.yaml',
      FURTHER.replace('count: 0', 'cuont: 0'),
      'cuont: unknown key',
    ],
    ['the file was broken before', 'config/model_presets.yaml', `${COMMENTED}colour: red\n`, 'colour'],
  ])('not where %s: nothing is written then', async (_what, path, text, problem) => {
    await writeFile(join(folder, path), text)
    const before = await readFile(file, 'utf8')
    await expect(register()).rejects.toThrow(problem)
    expect(await readFile(file, 'utf8')).toBe(before)
    expect(await readdir(join(folder, 'config'))).toEqual(['model_presets.yaml'])
  })
})
