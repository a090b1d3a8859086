import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, rename, rm, symlink, unlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Logger, PresetCatalog, PresetDiff } from '@gpu-service/tasks'
import { describe, expect, it, vi } from 'vitest'
import { presetsFolder } from './presets-folder.ts'

/** A presets file with these presets of the model `m`, each with its image. */
function kinds(images: Record<string, string>): string {
  const lines = Object.entries(images).map(([kind, image]) => `    ${kind}: {docker_image: ${image}}\n`)
  return `models:\n  m:\n${lines.join('')}`
}

const ids = (catalog: PresetCatalog) => catalog.presets().map((preset) => preset.id)
const nextChange = (catalog: PresetCatalog) =>
  new Promise<PresetDiff>((resolve) => {
    const stop = catalog.onChange((diff) => {
      stop()
      resolve(diff)
    })
  })

describe('reloading', () => {
  it('applies what differs, and says what that is', async () => {
    await using folder = await presetsFolder(kinds({ a: 'x', b: 'x', c: 'x' }))
    const catalog = await folder.open()
    const told: PresetDiff[] = []
    catalog.onChange((diff) => {
      told.push(diff)
      expect(ids(catalog)).toEqual(['m/d', 'm/b', 'm/a'])
    })
    await folder.write(kinds({ d: 'x', b: 'y', a: 'x' }))
    const diff = { added: ['m/d'], changed: ['m/b'], removed: ['m/c'] }
    expect(await catalog.reload()).toEqual({ status: 'reloaded', diff })
    expect(told).toEqual([diff])
    expect(catalog.preset('m/b')?.spec.image).toBe('y')
    expect(catalog.preset('m/c')).toBeNull()
  })

  it('tells nobody where nothing differs but the writing', async () => {
    await using folder = await presetsFolder(kinds({ a: 'x', b: 'x' }))
    const catalog = await folder.open()
    const listener = vi.fn()
    catalog.onChange(listener)
    await folder.write(
      '# the same\nmodels:\n  m:\n    b: {timeouts: {run: 86400}, docker_image: "x"}\n    a: {docker_image: x, mode: one-off}\n',
    )
    expect(await catalog.reload()).toEqual({
      status: 'reloaded',
      diff: { added: [], changed: [], removed: [] },
    })
    expect(listener).not.toHaveBeenCalled()
  })

  it('leaves the presets in force while the file is wrong or away, and says so until it is mended', async () => {
    await using folder = await presetsFolder(kinds({ a: 'x' }))
    const catalog = await folder.open()
    const listener = vi.fn()
    catalog.onChange(listener)

    await folder.write('models: [')
    const result = await catalog.reload()
    expect(result).toMatchObject({ status: 'invalid', issues: [{ file: folder.file, line: 1 }] })
    expect(catalog.issues()).toEqual(result.status === 'invalid' && result.issues)
    expect(ids(catalog)).toEqual(['m/a'])

    await unlink(folder.file)
    expect(await catalog.reload()).toMatchObject({ status: 'invalid' })
    expect(catalog.issues()[0]?.message).toContain('there is no file of that name')
    expect(ids(catalog)).toEqual(['m/a'])

    await folder.write(kinds({ a: 'x' }))
    expect(await catalog.reload()).toMatchObject({ status: 'reloaded' })
    expect(catalog.issues()).toEqual([])
    expect(listener).not.toHaveBeenCalled()
  })

  it('starts without presets where the file is wrong, and takes them when it is mended', async () => {
    await using folder = await presetsFolder('modles: {}')
    const catalog = await folder.open()
    expect(ids(catalog)).toEqual([])
    expect(catalog.issues()).toHaveLength(1)
    await folder.write(kinds({ a: 'x' }))
    expect(await catalog.reload()).toMatchObject({ diff: { added: ['m/a'] } })
    expect(catalog.issues()).toEqual([])
  })

  it('leaves what was resolved before as it was', async () => {
    await using folder = await presetsFolder(kinds({ a: 'x' }))
    const catalog = await folder.open()
    const before = catalog.resolve({ presetId: 'm/a', input: null, timeoutMs: null, gpuIds: null })
    await folder.write(kinds({ a: 'y' }))
    await catalog.reload()
    expect(before).toMatchObject({ spec: { image: 'x' } })
  })

  it('ends with the newest file, however many are asked for at once', async () => {
    await using folder = await presetsFolder(kinds({ a: 'v0' }))
    const catalog = await folder.open()
    const images: (string | undefined)[] = []
    catalog.onChange(() => images.push(catalog.preset('m/a')?.spec.image))
    const reloads = []
    for (let i = 1; i <= 50; i++) {
      await writeFile(`${folder.file}.new`, kinds({ a: `v${i}` }))
      await rename(`${folder.file}.new`, folder.file)
      reloads.push(catalog.reload(), catalog.reload())
    }
    await Promise.all(reloads)
    expect(images.at(-1)).toBe('v50')
    expect(images).toEqual([...new Set(images)])
  })

  it('goes on telling others where a listener fails, and tells no one who has ended it', async () => {
    await using folder = await presetsFolder(kinds({ a: 'x' }))
    const errors: object[] = []
    const logger: Logger = { debug() {}, info() {}, warn() {}, error: (fields) => errors.push(fields) }
    const catalog = await folder.open({ logger })
    const ended = vi.fn()
    const listener = vi.fn()
    catalog.onChange(() => {
      throw new Error('broken listener')
    })
    const end = catalog.onChange(ended)
    catalog.onChange(listener)
    end()
    end()
    await folder.write(kinds({ b: 'x' }))
    await catalog.reload()
    expect(listener).toHaveBeenCalledOnce()
    expect(ended).not.toHaveBeenCalled()
    expect(errors).toMatchObject([{ err: { message: 'broken listener' } }])
  })

  it('logs the problems of a file once, as file:line:column', async () => {
    await using folder = await presetsFolder('models: 3')
    const warnings: object[] = []
    const logger: Logger = { debug() {}, info() {}, error() {}, warn: (fields) => warnings.push(fields) }
    const catalog = await folder.open({ logger })
    await catalog.reload()
    expect(warnings).toEqual([
      { file: folder.file, issues: [`${folder.file}:1:9: models: expected a mapping of models, found 3`] },
    ])
  })

  it('warns of a model that is not in the models folder', async () => {
    await using folder = await presetsFolder(
      'models: {m: {a: {docker_image: x, model_path: here}, b: {docker_image: x, model_path: not/here}}}',
    )
    await mkdir(join(folder.path, 'here'))
    const warnings: object[] = []
    const logger: Logger = { debug() {}, info() {}, error() {}, warn: (fields) => warnings.push(fields) }
    const catalog = await folder.open({ logger })
    expect(catalog.issues()).toEqual([])
    expect(warnings).toEqual([{ preset: 'm/b', path: join(folder.path, 'not/here') }])
  })
})

describe('watching', { timeout: 30_000 }, () => {
  it.each<[string, (file: string, content: string) => Promise<void>]>([
    ['written in place', (file, content) => writeFile(file, content)],
    [
      'replaced by renaming',
      async (file, content) => {
        await writeFile(`${file}.swp`, content)
        await rename(`${file}.swp`, file)
      },
    ],
    [
      'removed and made again',
      async (file, content) => {
        await unlink(file)
        await writeFile(file, content)
      },
    ],
    [
      'moved away as a backup, and written anew',
      async (file, content) => {
        await rename(file, `${file}~`)
        await writeFile(file, content)
      },
    ],
    // By the poll alone, which looks every two seconds, five saves would take longer than this test may.
  ])('notices a file that is %s, again and again', { timeout: 8_000 }, async (_name, save) => {
    await using folder = await presetsFolder(kinds({ a: 'v0' }))
    const catalog = await folder.open({ watch: true })
    for (const version of ['v1', 'v2', 'v3', 'v4', 'v5']) {
      const changed = nextChange(catalog)
      await save(folder.file, kinds({ a: version }))
      expect(await changed).toEqual({ added: [], changed: ['m/a'], removed: [] })
      expect(catalog.preset('m/a')?.spec.image).toBe(version)
    }
  })

  it('notices a file that goes away and comes back', async () => {
    await using folder = await presetsFolder(kinds({ a: 'x' }))
    const catalog = await folder.open({ watch: true })
    await unlink(folder.file)
    await vi.waitFor(() => {
      expect(catalog.issues()[0]?.message).toContain('there is no file of that name')
    }, 10_000)
    expect(ids(catalog)).toEqual(['m/a'])
    const changed = nextChange(catalog)
    await folder.write(kinds({ b: 'x' }))
    expect(await changed).toEqual({ added: ['m/b'], changed: [], removed: ['m/a'] })
    expect(catalog.issues()).toEqual([])
  })

  it('notices a file behind a symbolic link that is turned, as mounted configuration is', async () => {
    await using folder = await presetsFolder()
    for (const version of ['v1', 'v2']) {
      await mkdir(join(folder.path, version))
      await writeFile(join(folder.path, version, 'model_presets.yaml'), kinds({ a: version }))
    }
    await symlink('v1', join(folder.path, 'data'))
    await symlink(join('data', 'model_presets.yaml'), folder.file)
    const catalog = await folder.open({ watch: true })
    const changed = nextChange(catalog)
    await symlink('v2', join(folder.path, 'data.new'))
    await rename(join(folder.path, 'data.new'), join(folder.path, 'data'))
    await changed
    expect(catalog.preset('m/a')?.spec.image).toBe('v2')
  })

  it('notices a file whose whole folder was missing, or is replaced', async () => {
    await using folder = await presetsFolder()
    const inner = join(folder.path, 'config')
    const file = join(inner, 'presets.yaml')
    const catalog = await folder.open({ file, watch: true })
    expect(catalog.issues()).toHaveLength(1)
    for (const version of ['v1', 'v2']) {
      const changed = nextChange(catalog)
      await rm(inner, { recursive: true, force: true })
      await mkdir(inner)
      await writeFile(file, kinds({ a: version }))
      await changed
      expect(catalog.preset('m/a')?.spec.image).toBe(version)
    }
  })

  it('reads a file that is written without a pause only now and then', async () => {
    await using folder = await presetsFolder(kinds({ a: 'v0' }))
    let changes = 0
    const catalog = await folder.open({ watch: true })
    catalog.onChange(() => changes++)
    for (let i = 1; i <= 200; i++) await folder.write(kinds({ a: `v${i}` }))
    await vi.waitFor(() => {
      expect(catalog.preset('m/a')?.spec.image).toBe('v200')
    }, 10_000)
    expect(changes).toBeLessThan(50)
  })

  it('ends with the catalog', async () => {
    await using folder = await presetsFolder(kinds({ a: 'x' }))
    const watched = await folder.open({ watch: true })
    const other = await folder.open({ watch: true })
    const listener = vi.fn()
    watched.onChange(listener)
    await watched[Symbol.asyncDispose]()
    await watched[Symbol.asyncDispose]()
    const changed = nextChange(other)
    await folder.write(kinds({ b: 'x' }))
    await changed
    expect(ids(watched)).toEqual(['m/a'])
    expect(listener).not.toHaveBeenCalled()
  })

  it('does not keep a process alive', async () => {
    await using folder = await presetsFolder(kinds({ a: 'x' }))
    const source = new URL('../src/index.ts', import.meta.url).href
    const script = `
      import { openPresetCatalog } from ${JSON.stringify(source)}
      const logger = { debug() {}, info() {}, warn() {}, error() {} }
      const catalog = await openPresetCatalog({ file: ${JSON.stringify(folder.file)}, modelsDir: '/', volumeRoots: [], secretRoots: [], secretEnvPrefix: 'WORKER_SECRET_', env: {}, logger })
      console.log(catalog.presets().length)
    `
    const child = spawn(process.execPath, ['--import', 'tsx', '--input-type=module', '--eval', script], {
      cwd: import.meta.dirname,
      stdio: ['ignore', 'pipe', 'inherit'],
      timeout: 30_000,
    })
    let said = ''
    child.stdout.on('data', (chunk: Buffer) => (said += chunk.toString()))
    expect(await once(child, 'close')).toEqual([0, null])
    expect(said).toBe('1\n')
  })
})
