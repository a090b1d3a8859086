import { copyFile, mkdir, mkdtemp, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Gpu, GpuId, GpuInventory, Logger } from '@gpu-service/tasks'
import { vi } from 'vitest'

/** A folder with a stand-in for nvidia-smi, what it answers, and what was logged. */
export interface FakeDriver extends AsyncDisposable {
  readonly program: string
  readonly logger: Logger
  readonly logged: string[]
  /** Puts an answer, or a switch, in place in one step; `null` takes it away. See fake-nvidia-smi.sh. */
  put(file: string, content: string | null): Promise<void>
  /** Puts another script in its place. */
  script(lines: string): Promise<void>
  /** A file of the script's. */
  read(file: string): Promise<string>
}

export async function createFakeDriver(): Promise<FakeDriver> {
  const folder = await mkdtemp(join(tmpdir(), 'gpus-'))
  const program = join(folder, 'nvidia-smi')
  await mkdir(join(folder, 'gpus'))
  await copyFile(new URL('fake-nvidia-smi.sh', import.meta.url), program)
  const logged: string[] = []
  const note =
    (level: string) =>
    (fields: object, message: string): void => {
      logged.push(`${level} ${message} ${JSON.stringify(fields)}`)
    }
  const replace = async (path: string, content: string): Promise<void> => {
    await writeFile(`${path}.new`, content, { mode: 0o700 })
    await rename(`${path}.new`, path)
  }
  return {
    program,
    logged,
    logger: { debug: note('debug'), info: note('info'), warn: note('warn'), error: note('error') },
    put: (file, content) => {
      const path = join(folder, 'gpus', file)
      return content === null ? rm(path, { force: true }) : replace(path, content)
    },
    script: (lines) => replace(program, `#!/bin/sh\ncd ${folder}\n${lines}\n`),
    read: (file) => readFile(join(folder, file), 'utf8'),
    [Symbol.asyncDispose]: () => rm(folder, { recursive: true }),
  }
}

export interface CardText {
  readonly uuid: string
  readonly bus?: string
  readonly used?: number | string
  readonly ecc?: number | string
  /** More elements. */
  readonly more?: string
}

/** A card's answer, as short as it can be. */
export function card({ uuid, bus = '01:00.0', used = 100, ecc = 0, more = '' }: CardText): string {
  return `<gpu id="00000000:${bus}">
<product_name>NVIDIA H200</product_name>
<uuid>${uuid}</uuid>
<fb_memory_usage><total>143771 MiB</total><used>${typeof used === 'number' ? `${used} MiB` : used}</used></fb_memory_usage>
<ecc_errors><volatile><dram_uncorrectable>${ecc}</dram_uncorrectable></volatile></ecc_errors>
${more}</gpu>`
}

/** Resolves once the inventory lists what is waited for. */
export function until(inventory: GpuInventory, seen: (gpus: readonly Gpu[]) => boolean): Promise<void> {
  return new Promise((resolve) => {
    const end = inventory.onChange(check)
    function check(): void {
      if (!seen(inventory.list())) return
      end()
      resolve()
    }
    check()
  })
}

/** Every change from now on, one after the other. */
export function changesOf(inventory: GpuInventory): { next(): Promise<readonly GpuId[]> } {
  const changes: (readonly GpuId[])[] = []
  inventory.onChange((changed) => changes.push(changed))
  return {
    next: () =>
      vi.waitFor(
        () => {
          const change = changes.shift()
          if (!change) throw new Error('nothing has changed yet')
          return change
        },
        { timeout: 4_000, interval: 5 },
      ),
  }
}
