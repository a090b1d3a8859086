import { chmod, mkdtemp, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { existsSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type GpuId, type GpuInventory, silentLogger } from '@gpu-service/tasks'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { type GpuInventoryOptions, openGpuInventory } from '../src/index.ts'

const ONE = 'GPU-1b2c3d4e-0000-1111-2222-333344445555'
const TWO = 'GPU-9f8e7d6c-0000-1111-2222-333344445555'
const LINES = `${TWO}, 1, NVIDIA H200, 143771, 1000, 50, 40, 350.25\n${ONE}, 0, NVIDIA H200, 143771, 4, 0, 31, 76.12\n`

let folder: string
let program: string
let answer: string
let logged: string[]
let inventory: GpuInventory | null

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'gpus-'))
  program = join(folder, 'nvidia-smi')
  answer = join(folder, 'answer')
  logged = []
  inventory = null
})

afterEach(async () => {
  await inventory?.[Symbol.asyncDispose]()
  await rm(folder, { recursive: true })
})

describe('an inventory of real GPUs', () => {
  it('lists what nvidia-smi says, in the order of the index', async () => {
    const gpus = (await opened(LINES)).list()
    expect(inventory?.source).toBe('nvidia-smi')
    expect(gpus).toMatchObject([
      {
        id: ONE,
        index: 0,
        name: 'NVIDIA H200',
        memoryTotalMb: 143_771,
        simulated: false,
        parentId: null,
        stale: false,
        telemetry: { memoryUsedMb: 4, utilizationPercent: 0, temperatureC: 31, powerW: 76.12 },
      },
      { id: TWO, index: 1, telemetry: { powerW: 350.25 } },
    ])
    expect(Date.now() - (gpus[0]?.telemetry?.sampledAt ?? 0)).toBeLessThan(10_000)
  })

  it('asks for exactly the fields that it reads', async () => {
    await fake(`echo "$@" > ${folder}/arguments; cat ${answer}`)
    await opened(LINES)
    expect(await readFile(join(folder, 'arguments'), 'utf8')).toBe(
      '--query-gpu=uuid,index,name,memory.total,memory.used,utilization.gpu,temperature.gpu,power.draw --format=csv,noheader,nounits\n',
    )
  })

  it.each(['[N/A]', 'N/A', '[Not Supported]', '[Unknown Error]'])(
    'takes %s for a meter that is not told',
    async (cell) => {
      const [gpu] = (
        await opened(`${ONE}, 0, NVIDIA GB10, ${cell}, ${cell}, ${cell}, ${cell}, ${cell}\n`)
      ).list()
      expect(gpu).toMatchObject({
        memoryTotalMb: 0,
        telemetry: { memoryUsedMb: null, utilizationPercent: null, temperatureC: null, powerW: null },
      })
    },
  )

  it('tells the ids of the GPUs that changed, and those alone', async () => {
    const changes = changesOf(await opened(LINES))
    await answering(LINES.replace('50, 40, 350.25', '99, 70, 690.00'))
    expect(await changes.next()).toEqual([TWO])
    await answering(
      LINES.replace('143771, 4, 0', '143771, 77, 0').replace('50, 40, 350.25', '99, 70, 690.00'),
    )
    expect(await changes.next()).toEqual([ONE])
    expect(inventory?.list()[0]?.telemetry?.memoryUsedMb).toBe(77)
  })

  it('samples on without a call where nothing changes', async () => {
    const opening = await opened(LINES)
    const listener = vi.fn()
    opening.onChange(listener)
    const first = opening.list()[0]?.telemetry?.sampledAt ?? 0
    await vi.waitFor(() => {
      expect(opening.list()[0]?.telemetry?.sampledAt).toBeGreaterThan(first)
    })
    expect(listener).not.toHaveBeenCalled()
  })

  it('calls a listener no more that has ended', async () => {
    const opening = await opened(LINES)
    const ended = vi.fn()
    opening.onChange(ended)()
    const changes = changesOf(opening)
    await answering(LINES.replace('350.25', '360.00'))
    await changes.next()
    expect(ended).not.toHaveBeenCalled()
  })

  it.each([
    ['is gone', () => rm(program)],
    ['fails', () => fake('echo "Driver/library version mismatch" >&2; exit 18')],
    ['says garbage', () => answering('hello')],
    ['says too much', () => fake('exec yes')],
    ['hangs', () => fake('exec sleep 60')],
  ])('keeps its GPUs, stale, while nvidia-smi %s, and recovers', async (_what, breakIt) => {
    const changes = changesOf(await opened(LINES))
    await breakIt()
    expect(await changes.next()).toEqual([ONE, TWO])
    expect(inventory?.list()).toMatchObject([
      { id: ONE, stale: true, telemetry: { memoryUsedMb: 4 } },
      { id: TWO, stale: true },
    ])
    expect(logged.filter((line) => line.startsWith('warn'))).toHaveLength(1)

    await fake(`cat ${answer}`)
    await answering(LINES)
    expect(await changes.next()).toEqual([ONE, TWO])
    expect(inventory?.list().map(({ stale }) => stale)).toEqual([false, false])
  })

  it('keeps a GPU that nvidia-smi lists no more, stale, and takes up a new one', async () => {
    const [first = '', second = ''] = LINES.split('\n')
    const changes = changesOf(await opened(`${first}\n`))
    await answering(`${second}\n`)
    expect(await changes.next()).toEqual([ONE, TWO])
    expect(inventory?.list()).toMatchObject([
      { id: ONE, stale: false },
      { id: TWO, stale: true },
    ])
  })

  it('ends its program when it is disposed of', async () => {
    const opening = await opened(LINES)
    await fake(`echo $$ > ${folder}/pid.new; mv ${folder}/pid.new ${folder}/pid; exec sleep 60`)
    const pid = await vi.waitFor(() => readFile(join(folder, 'pid'), 'utf8'))
    await opening[Symbol.asyncDispose]()
    await vi.waitFor(() => {
      expect(existsSync(`/proc/${pid.trim()}`)).toBe(false)
    })
  })
})

describe('a machine whose GPUs cannot be told', () => {
  it.each([
    ['there is no nvidia-smi', () => rm(program), 'ENOENT'],
    ['it cannot be executed', () => chmod(program, 0o600), 'EACCES'],
    ['it fails', () => fake('echo "No devices were found"; exit 6'), 'No devices were found'],
    ['it lists none', () => answering(''), 'lists no GPU'],
    ['it says garbage', () => answering('<html>'), 'unexpected: <html>'],
    ['a line is cut short', () => answering(`${ONE}, 0, NVIDIA H200, 143771`), 'unexpected'],
    ['it says too much', () => fake('exec yes'), 'more than 262144 bytes'],
    ['it hangs', () => fake('exec sleep 60'), 'did not answer within 1000 ms'],
  ])('has none where %s, and the log says why', async (_what, breakIt, reason) => {
    await fake(`cat ${answer}`)
    await breakIt()
    inventory = await openGpuInventory(options())
    expect(inventory.source).toBe('none')
    expect(inventory.list()).toEqual([])
    expect(logged.join()).toContain(reason)
  })

  it('is not asked where GPUs are switched off', async () => {
    await fake(`touch ${folder}/asked; cat ${answer}`)
    inventory = await openGpuInventory({ ...options(), source: 'none' })
    expect(inventory.source).toBe('none')
    expect(existsSync(join(folder, 'asked'))).toBe(false)
  })
})

describe('simulated GPUs', () => {
  it('are as many as asked for, the same at every start', async () => {
    const source = { simulated: { count: 2, memoryMb: 81_920 } }
    inventory = await openGpuInventory({ source, logger: silentLogger })
    await using again = await openGpuInventory({ source, logger: silentLogger })
    expect(inventory.source).toBe('simulated')
    expect(inventory.list()).toMatchObject([
      { index: 0, name: 'Simulated GPU', memoryTotalMb: 81_920, simulated: true, stale: false },
      { index: 1, telemetry: null },
    ])
    const ids = inventory.list().map(({ id }) => id)
    expect(new Set(ids).size).toBe(2)
    for (const id of ids) expect(id).toMatch(/^GPU-[\da-f]{8}(-[\da-f]{4}){3}-[\da-f]{12}$/)
    expect(again.list().map(({ id }) => id)).toEqual(ids)
  })
})

/** Puts a script in the place of nvidia-smi, in one step. */
async function fake(script: string): Promise<void> {
  await writeFile(`${program}.new`, `#!/bin/sh\n${script}\n`, { mode: 0o700 })
  await rename(`${program}.new`, program)
}

/** What the script says from now on. */
async function answering(lines: string): Promise<void> {
  await writeFile(`${answer}.new`, lines)
  await rename(`${answer}.new`, answer)
}

function options(): GpuInventoryOptions {
  const note =
    (level: string) =>
    (fields: object, message: string): void => {
      logged.push(`${level} ${message} ${JSON.stringify(fields)}`)
    }
  return {
    source: 'auto',
    nvidiaSmi: program,
    sampleIntervalMs: 20,
    deadlineMs: 1_000,
    logger: { ...silentLogger, info: note('info'), warn: note('warn') },
  }
}

async function opened(lines: string): Promise<GpuInventory> {
  await answering(lines)
  if (!existsSync(program)) await fake(`cat ${answer}`)
  return (inventory = await openGpuInventory(options()))
}

/** Every change from now on, one after the other. */
function changesOf(opening: GpuInventory): { next(): Promise<readonly GpuId[]> } {
  const changes: (readonly GpuId[])[] = []
  opening.onChange((changed) => changes.push(changed))
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
