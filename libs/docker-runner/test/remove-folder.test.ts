import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, it } from 'vitest'
import { removeFolder } from '../src/remove-folder.ts'

/** Makes a folder with files, and puts a link in its place and the folder back, for ever. */
const SWAP = `
  const { mkdirSync, renameSync, symlinkSync, unlinkSync, writeFileSync } = require('node:fs')
  const [, folder, target] = process.argv
  const attempt = (action, ...args) => { try { action(...args) } catch {} }
  const pause = () => { for (const end = performance.now() + 0.1 * Math.random(); performance.now() < end;); }
  console.log('up')
  for (;;) {
    attempt(mkdirSync, folder + '/inner', { recursive: true })
    attempt(writeFileSync, folder + '/inner/1', '')
    for (let n = 0; n < 20; n++) {
      attempt(renameSync, folder + '/inner', folder + '/aside')
      attempt(symlinkSync, target, folder + '/inner')
      pause()
      attempt(unlinkSync, folder + '/inner')
      attempt(renameSync, folder + '/aside', folder + '/inner')
      pause()
    }
  }
`

it(
  'a folder is removed while its links are turned, and nothing of what they point to',
  { timeout: 30_000 },
  async () => {
    const root = await mkdtemp(join(tmpdir(), 'remove-folder-'))
    const target = join(root, 'target')
    await mkdir(target)
    const files = Array.from({ length: 20 }, (_, n) => `file-${String(n).padStart(2, '0')}`)
    for (const file of files) await writeFile(join(target, file), '')
    const swapping = spawn(process.execPath, ['-e', SWAP, join(root, 'folder'), target], {
      stdio: ['ignore', 'pipe', 'ignore'],
    })
    try {
      await once(swapping.stdout, 'data')
      for (let round = 0; round < 300; round++) await removeFolder(join(root, 'folder'))
      expect((await readdir(target)).sort()).toEqual(files)
      swapping.kill('SIGKILL')
      await once(swapping, 'exit')
      await removeFolder(join(root, 'folder'))
      expect(existsSync(join(root, 'folder'))).toBe(false)
    } finally {
      swapping.kill('SIGKILL')
      await rm(root, { recursive: true })
    }
  },
)
