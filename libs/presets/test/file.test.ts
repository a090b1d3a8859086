import { execFile } from 'node:child_process'
import { chmod, mkdir, readFile, rm, symlink } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { describe, expect, it } from 'vitest'
import { issuesOf, marked, presetsFolder } from './presets-folder.ts'

const SEED = `models:
  test-loading:
    inference:
      docker_image: "loading-worker:latest"
      command: ["python", "/app/worker.py"]
      env_vars:
        MODEL_NAME: "test-loading"
`

const SHIPPED = await readFile(
  join(import.meta.dirname, '../../../apps/api/config/model_presets.yaml'),
  'utf8',
)

describe('a presets file', () => {
  it.each([
    ['as the workers are registered in it', SEED, []],
    ['that the service is shipped with', SHIPPED, ['test-session/inference']],
  ])('%s gives the loading worker', async (_name, content, others) => {
    await using folder = await presetsFolder(content)
    const catalog = await folder.open()
    expect(catalog.issues()).toEqual([])
    expect(catalog.presets().map((preset) => preset.id)).toEqual(['test-loading/inference', ...others])
    expect(catalog.preset('test-loading/inference')?.spec).toMatchObject({
      image: 'loading-worker:latest',
      command: ['python', '/app/worker.py'],
      env: { MODEL_NAME: 'test-loading' },
      mode: 'ONE_OFF',
      gpus: { count: 'default', ids: null },
    })
  })

  it.each([
    '',
    '\n\n',
    '# nothing yet\n',
    '---\n',
    '{}',
    'models:',
    'models: {}',
    'models: # later\n',
    '\uFEFFmodels: {}',
    '~',
  ])('may hold no presets: %j', async (content) => {
    await using folder = await presetsFolder(content)
    const catalog = await folder.open()
    expect(catalog.issues()).toEqual([])
    expect(catalog.presets()).toEqual([])
  })

  it('keeps the order of its presets and reads Windows line ends', async () => {
    await using folder = await presetsFolder(
      [
        'models:',
        '  b:',
        '    z: {docker_image: x}',
        '    a: {docker_image: x}',
        '  a:',
        '    k: {docker_image: x}',
        '',
      ].join('\r\n'),
    )
    const catalog = await folder.open()
    expect(catalog.presets().map((preset) => preset.id)).toEqual(['b/z', 'b/a', 'a/k'])
  })

  it('may use aliases', async () => {
    await using folder = await presetsFolder(`models:
  m:
    a: {docker_image: x, env_vars: &env {A: b}}
    b: {docker_image: x, env_vars: *env}
`)
    const catalog = await folder.open()
    expect(catalog.issues()).toEqual([])
    expect(catalog.preset('m/b')?.spec.env).toEqual({ A: 'b' })
  })

  it('is told with all of its problems at once, in their order', async () => {
    const issues = await issuesOf(`models:
  m:
    k:
      docker_image: X
      gpus: {count: two}
    j:
      network: host
  empty: {}
  "bad name": {}
mode: session
`)
    expect(issues).toEqual([
      expect.stringMatching(/^4:21 models\.m\.k\.docker_image: expected an image reference/),
      expect.stringMatching(/^5:21 models\.m\.k\.gpus\.count: /),
      expect.stringMatching(/^6:5 models\.m\.j\.docker_image is missing: expected an image reference/),
      expect.stringMatching(/^7:16 models\.m\.j\.network: /),
      expect.stringMatching(
        /^8:10 models\.empty: expected a mapping of kinds such as inference, found an empty mapping/,
      ),
      expect.stringMatching(/^9:3 models\."bad name": a name has/),
      expect.stringMatching(/^9:15 models\."bad name": expected a mapping of kinds/),
      expect.stringMatching(/^10:1 mode: unknown key; did you mean "models"\?/),
    ])
  })

  it('is told with at most 100 problems, and how many more there are', async () => {
    const issues = await issuesOf(
      `models:\n${Array.from({ length: 150 }, (_, i) => `  m${i}: 1\n`).join('')}`,
    )
    expect(issues).toHaveLength(100)
    expect(issues[99]).toMatch(/^101:8 models\.m99: .* \(and 50 more problems in the file\)$/)
  })

  it.each([
    ['a second document', 'models: {}\n¦---\nmodels: {}\n', 'a second YAML document begins here'],
    [
      'a key that is written twice',
      'models: {}\n¦models: {}\n',
      'models: this key is written twice, first on line 1',
    ],
    [
      'a name that is written twice',
      'models:\n  m: {k: {docker_image: x}}\n  ¦m: {k: {docker_image: x}}\n',
      'models.m: this key is written twice',
    ],
    ['an unknown tag', 'models: !!js/function ¦"x"\n', 'models: the tag'],
    [
      'a known tag',
      'models: {m: {k: {docker_image: !!str ¦x}}}\n',
      'models.m.k.docker_image: the tag "tag:yaml.org,2002:str" is not part of the format',
    ],
    ['a tagged key', 'models: {!!str ¦m: {k: {docker_image: x}}}\n', 'the tag'],
    [
      'a merge key',
      'models: {m: {k: {docker_image: x, ¦<<: {network: none}}}}\n',
      'models.m.k."<<": merge keys are not part of the format',
    ],
    [
      'the prototype of an object',
      'models: {¦__proto__: {k: {docker_image: x}}}\n',
      'this key is not allowed',
    ],
    ['a key that is a list', 'models: {¦[a]: b}\n', ''],
    ['an alias without its anchor', 'models: ¦*x\n', 'models: no anchor &x stands before this alias'],
    ['an alias of itself', 'models: &x {m: ¦*x}\n', 'models.m: no anchor &x stands before this alias'],
    ['another version of YAML', '¦%YAML 1.1\n---\nmodels: {}\n', 'the file is read as YAML 1.2, not 1.1'],
    ['a list', '¦- models\n', 'expected a mapping with the key models, found a list'],
    ['a text', '¦models\n', 'expected a mapping with the key models, found "models"'],
    ['a bracket that is not closed', 'models: {m: {k: {docker_image: x}}\n¦', 'not valid YAML'],
    ['a tab as indentation', 'models:\n¦\tm: {}\n', 'not valid YAML'],
    ['a bad indentation', 'models:\n    m:\n  ¦k: {}\n', 'not valid YAML'],
    [
      'half of a surrogate pair',
      'models: {m: {k: {docker_image: x, description: ¦"\\ud800"}}}\n',
      'the text holds a character',
    ],
  ])('may not hold %s', async (_name, content, says) => {
    const { content: yaml, position } = marked(content)
    const issues = await issuesOf(yaml)
    expect(issues[0]).toContain(says)
    expect(issues[0]?.split(' ')[0]).toBe(position)
  })

  it('has to be UTF-8', async () => {
    const latin1 = Buffer.from('models: {}\n# caf\xe9\n# more\n', 'latin1')
    expect(await issuesOf(latin1)).toEqual([
      '2:1 this line is not UTF-8 text; save the file with the encoding UTF-8',
    ])
    expect(await issuesOf(Buffer.from('\ufeffmodels: {}', 'utf16le'))).toHaveLength(1)
  })

  it('has to be at most 1 MiB', async () => {
    const padding = (length: number) => `models: {}\n#${' '.repeat(1_048_576 - 12 + length)}`
    expect(await issuesOf(padding(0))).toEqual(['2:1 a text is longer than 65536 characters'])
    expect(await issuesOf(padding(1))).toEqual(['1:1 the file is larger than 1048576 bytes'])
  })

  it('has to be a file that can be read', async () => {
    await using folder = await presetsFolder()
    expect((await folder.open()).issues()).toEqual([
      {
        file: folder.file,
        line: 1,
        column: 1,
        message: 'the presets file cannot be read: there is no file of that name',
      },
    ])
    await mkdir(folder.file)
    expect((await folder.open()).issues()[0]?.message).toContain('it is not a regular file')
    await rm(folder.file, { recursive: true })
    await symlink(folder.file, folder.file)
    expect((await folder.open()).issues()[0]?.message).toContain('its symbolic links go in a circle')
    await rm(folder.file)
    await promisify(execFile)('mkfifo', [folder.file])
    expect((await folder.open()).issues()[0]?.message).toContain('it is not a regular file')
    await rm(folder.file)
    await folder.write('models: {}')
    await chmod(folder.file, 0o000)
    // A superuser reads it all the same.
    const messages = (await folder.open()).issues().map(({ message }) => message)
    expect(messages).toEqual(process.getuid?.() === 0 ? [] : [expect.stringContaining('it may not be read')])
  })
})

describe('a file that was made to do harm', () => {
  const MIB = 1_048_000
  const fill = (unit: string, length = MIB) => unit.repeat(Math.floor(length / unit.length))
  const bomb = ['a: &a [x,x,x,x,x,x,x,x,x,x]']
  for (const [name, last] of ['ba', 'cb', 'dc', 'ed', 'fe', 'gf', 'hg'].map((pair) => [pair[0], pair[1]]))
    bomb.push(`${name}: &${name} [${Array.from({ length: 10 }, () => `*${last}`).join(',')}]`)

  it.each([
    ['aliases that multiply', bomb.join('\n')],
    ['many aliases', `a: &a x\nb: [${fill('*a,', 100_000)}]`],
    ['lists in lists', fill('[')],
    ['mappings in mappings', fill('{a: ')],
    ['dashes in dashes', fill('- ')],
    ['question marks', fill('? ')],
    ['indentation', Array.from({ length: 1_400 }, (_, i) => `${' '.repeat(i)}a:`).join('\n')],
    ['closing brackets', fill(']')],
    ['commas', `[${fill(',')}`],
    ['many entries', `[${fill('a,')}]`],
    ['many keys', Array.from({ length: 100_000 }, (_, i) => `k${i}:`).join('\n')],
    ['many tags', fill('!a ')],
    ['many anchors', fill('&a ')],
    ['many directives', fill('%\n')],
    ['many documents', fill('---\n')],
    ['wrong escapes', `"${fill('\\q')}"`],
    ['a long text', `a: ${fill('x')}`],
    ['colons', fill(': ')],
    ['comments', fill('a #\n')],
    ['empty lines', `a: |\n${fill('\n')}`],
    ['no text at all', Buffer.alloc(MIB)],
  ])('is refused quickly: %s', async (_name, content) => {
    const start = process.cpuUsage()
    const issues = await issuesOf(content)
    expect(issues.length).toBeGreaterThan(0)
    expect(process.cpuUsage(start).user).toBeLessThan(3_000_000)
  })

  it('may be nested 64 deep and no deeper', async () => {
    const nested = (depth: number) =>
      `models: {m: {k: {docker_image: x, input: {default: ${'['.repeat(depth)}${']'.repeat(depth)}}}}}`
    expect(await issuesOf(nested(59))).not.toContainEqual(expect.stringContaining('nested deeper'))
    expect(await issuesOf(nested(60))).toEqual([expect.stringContaining('values are nested deeper than 64')])
  })
})
