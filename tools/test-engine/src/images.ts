import { execFile } from 'node:child_process'
import { chmod, copyFile, mkdir, mkdtemp, open, rm, symlink, writeFile } from 'node:fs/promises'
import { createReadStream } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { promisify } from 'node:util'
import { clientOf } from './client.ts'

const run = promisify(execFile)
const BUSYBOX_NAME = { repo: 'busybox', tag: 'test' }
const ROOT = join(import.meta.dirname, '../../..')

/** A shell and the usual small programs. */
export const BUSYBOX_IMAGE = 'busybox:test'
export const BASE_IMAGE = 'python:3.11-slim'
export const LOADING_WORKER_IMAGE = 'loading-worker:latest'
export const SESSION_WORKER_IMAGE = 'session-worker:latest'
export const CHAOS_WORKER_IMAGE = 'chaos-worker:latest'
/** With an engine that is fetched from the npm registry where it is not there yet. */
export const LLAMA_WORKER_IMAGE = 'llama-worker:latest'
export const TEXT_TRAINER_IMAGE = 'text-trainer:latest'
/** With PyTorch, from Debian's packages. */
export const TORCH_IMAGE = 'python3-torch:trixie'
/** What the service's image is made from. */
export const NODE_IMAGE = 'node:20-trixie-slim'
/** The service itself, bundled anew. */
export const SERVICE_IMAGE = 'gpu-service:test'

/** The worker packages that tests use. */
const WORKER_FOLDERS = {
  [LOADING_WORKER_IMAGE]: 'workers/test/loading-worker',
  [SESSION_WORKER_IMAGE]: 'workers/test/session-worker',
  [CHAOS_WORKER_IMAGE]: 'workers/test/chaos-worker',
} as const

export type TestImage =
  | typeof BUSYBOX_IMAGE
  | typeof BASE_IMAGE
  | typeof NODE_IMAGE
  | typeof SERVICE_IMAGE
  | typeof LLAMA_WORKER_IMAGE
  | typeof TORCH_IMAGE
  | typeof TEXT_TRAINER_IMAGE
  | keyof typeof WORKER_FOLDERS

/** Makes an image on the engine where it is missing; one that is there is left alone. */
export async function ensureTestImage(dockerHost: string, image: TestImage): Promise<void> {
  if (await hasImage(dockerHost, image)) return
  switch (image) {
    case BUSYBOX_IMAGE:
      await makeBusybox(dockerHost)
      return
    case BASE_IMAGE:
    case NODE_IMAGE:
    case TORCH_IMAGE:
      await runTool(dockerHost, ['base-images/base-images.mjs', image])
      return
    case SERVICE_IMAGE:
      await ensureTestImage(dockerHost, NODE_IMAGE)
      await runTool(dockerHost, ['image.mjs', SERVICE_IMAGE], { NODE_IMAGE })
      return
    case LOADING_WORKER_IMAGE:
    case SESSION_WORKER_IMAGE:
    case CHAOS_WORKER_IMAGE:
      await runTool(dockerHost, ['base-images/worker-image.mjs', join(ROOT, WORKER_FOLDERS[image]), image])
      return
    case LLAMA_WORKER_IMAGE: {
      const folder = join(ROOT, 'workers/llama/llama-worker')
      await run(process.execPath, [join(folder, 'build.mjs')])
      await runTool(dockerHost, ['base-images/worker-image.mjs', join(folder, 'dist/cpu'), image])
      return
    }
    case TEXT_TRAINER_IMAGE: {
      await ensureTestImage(dockerHost, TORCH_IMAGE)
      const folder = join(ROOT, 'workers/training/text-trainer')
      await run(join(folder, 'prepare.sh'))
      await runTool(dockerHost, ['base-images/worker-image.mjs', folder, image])
    }
  }
}

async function hasImage(dockerHost: string, image: string): Promise<boolean> {
  const images = await clientOf(dockerHost).listImages({ filters: { reference: [image] } })
  return images.length > 0
}

async function runTool(
  dockerHost: string,
  [script = '', ...args]: readonly string[],
  more: Readonly<Record<string, string>> = {},
): Promise<void> {
  const env = { ...process.env, DOCKER_HOST: dockerHost, ...more }
  await run(process.execPath, [join(ROOT, 'tools', script), ...args], { env })
}

/** From Debian's `busybox-static` where it is installed; else the base image gets the name, which has the same programs and more. */
async function makeBusybox(dockerHost: string): Promise<void> {
  const program = await staticBusybox()
  if (program === null) {
    await ensureTestImage(dockerHost, BASE_IMAGE)
    await clientOf(dockerHost).getImage(BASE_IMAGE).tag(BUSYBOX_NAME)
    return
  }
  const folder = await mkdtemp(join(tmpdir(), 'busybox-image-'))
  try {
    const root = join(folder, 'root')
    await mkdir(join(root, 'bin'), { recursive: true })
    await mkdir(join(root, 'etc'))
    await mkdir(join(root, 'tmp'))
    await chmod(join(root, 'tmp'), 0o1777)
    await writeFile(
      join(root, 'etc/passwd'),
      'root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n',
    )
    await writeFile(join(root, 'etc/group'), 'root:x:0:\nnogroup:x:65534:\n')
    await copyFile(program, join(root, 'bin/busybox'))
    const { stdout } = await run(program, ['--list'])
    const applets = stdout.split('\n').filter((name) => /^[^/]+$/.test(name) && name !== 'busybox')
    for (const name of applets) await symlink('busybox', join(root, 'bin', name))
    const tarball = join(folder, 'root.tar')
    await run('tar', ['-C', root, '--numeric-owner', '--owner=0', '--group=0', '-cf', tarball, '.'])
    const changes = ['ENV PATH=/bin', 'CMD ["sh"]']
    const progress = await clientOf(dockerHost).importImage(createReadStream(tarball), {
      ...BUSYBOX_NAME,
      changes,
    })
    const report = await text(progress)
    if (!(await hasImage(dockerHost, BUSYBOX_IMAGE)))
      throw new Error(`${BUSYBOX_IMAGE} was not imported: ${report}`)
  } finally {
    await rm(folder, { recursive: true })
  }
}

async function staticBusybox(): Promise<string | null> {
  for (const path of ['/bin/busybox', '/usr/bin/busybox']) {
    try {
      await using file = await open(path)
      const { buffer } = await file.read(Buffer.alloc(4_096))
      // A program that needs shared libraries names its loader near its start.
      if (!/\/ld-(linux|musl)/.test(buffer.toString('latin1'))) return path
    } catch (error) {
      if (!(error instanceof Error && 'code' in error && error.code === 'ENOENT')) throw error
    }
  }
  return null
}
