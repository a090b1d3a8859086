import { readFileSync } from 'node:fs'
import { chmod, rm } from 'node:fs/promises'
import type { Gpu, GpuId, GpuInventory } from '@gpu-service/tasks'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { type GpuInventoryOptions, openGpuInventory } from '../src/index.ts'
import { card, changesOf, createFakeDriver, type FakeDriver, until } from './driver.ts'

const ONE = 'GPU-1b2c3d4e-0000-1111-2222-333344445555' as GpuId
const TWO = 'GPU-9f8e7d6c-0000-1111-2222-333344445555' as GpuId
/** No interval passes during a test: samples are taken when a test asks for them. */
const ON_DEMAND = 3_600_000

let driver: FakeDriver
let inventory: GpuInventory | null

beforeEach(async () => {
  driver = await createFakeDriver()
  inventory = null
})

afterEach(async () => {
  await inventory?.[Symbol.asyncDispose]()
  await driver[Symbol.asyncDispose]()
})

describe('an inventory of real GPUs', () => {
  it('lists them in the order of the numbers that nvidia-smi -L tells', async () => {
    await driver.put('1.xml', card({ uuid: ONE, bus: '02:00.0' }))
    await driver.put('0.xml', card({ uuid: TWO, used: 7 }))
    const gpus = (await opened()).list()
    expect(inventory?.source).toBe('nvidia-smi')
    expect(inventory?.simulation).toBeNull()
    expect(gpus).toMatchObject([
      { id: TWO, index: 0, name: 'NVIDIA H200', memoryTotalMb: 143_771, telemetry: { memoryUsedMb: 7 } },
      { id: ONE, index: 1, simulated: false, parentId: null, stale: false, health: 'OK', problem: null },
    ])
    expect(Date.now() - (gpus[0]?.telemetry?.sampledAt ?? 0)).toBeLessThan(10_000)
  })

  it('keeps the number of a card whose neighbour before it is missing from the answer', async () => {
    await twoCards()
    await driver.put('0.lost', '0000:01:00.0: Unknown Error')
    expect((await opened()).list()).toMatchObject([{ id: TWO, index: 1 }])
    expect(driver.logged.join()).toContain('A GPU at 0:01:00.0: The driver answers: Unknown Error.')
  })

  it('knows its cards by their ids where they change their numbers', async () => {
    await twoCards()
    await opened()
    await driver.put('0.xml', card({ uuid: TWO, bus: '01:00.0', used: 2 }))
    await driver.put('1.xml', card({ uuid: ONE, bus: '02:00.0', used: 1 }))
    await inventory?.refresh()
    // The same ids in another order are other cards to nvidia-smi -L.
    expect(inventory?.list()).toMatchObject([
      { id: TWO, index: 0, health: 'OK', telemetry: { memoryUsedMb: 2 } },
      { id: ONE, index: 1, health: 'OK', telemetry: { memoryUsedMb: 1 } },
    ])
  })

  it('tells the ids of the GPUs that changed, and those alone', async () => {
    await twoCards()
    const opening = await opened()
    const changes = changesOf(opening)
    await driver.put('1.xml', card({ uuid: TWO, bus: '02:00.0', used: 5 }))
    await opening.refresh()
    expect(await changes.next()).toEqual([TWO])
    await driver.put('0.xml', card({ uuid: ONE, used: 6 }))
    await opening.refresh()
    expect(await changes.next()).toEqual([ONE])
  })

  it('samples on without a call where nothing changes', async () => {
    await twoCards()
    const opening = await opened({ sampleIntervalMs: 500 })
    const listener = vi.fn()
    opening.onChange(listener)
    const first = sampledAt(opening)
    await vi.waitFor(
      () => {
        expect(sampledAt(opening)).toBeGreaterThan(first)
      },
      { timeout: 5_000 },
    )
    expect(listener).not.toHaveBeenCalled()
  })

  it('calls a listener no more that has ended, and the others though one throws', async () => {
    await twoCards()
    const opening = await opened()
    const ended = vi.fn()
    opening.onChange(ended)()
    opening.onChange(() => {
      throw new Error('a listener of no use')
    })
    const changes = changesOf(opening)
    await driver.put('0.xml', card({ uuid: ONE, used: 6 }))
    await opening.refresh()
    expect(await changes.next()).toEqual([ONE])
    expect(ended).not.toHaveBeenCalled()
    expect(driver.logged.join()).toContain('A listener to the GPUs failed')
  })

  it.each([
    ['is gone', () => rm(driver.program), 'ENOENT'],
    [
      'does not fit the driver',
      () => failing(18, 'Failed to initialize NVML: Driver/library version mismatch'),
      'ended with 18: Failed to initialize NVML: Driver/library version mismatch',
    ],
    ['finds no device', () => failing(6, 'No devices were found'), 'ended with 6: No devices were found'],
    ['says garbage', () => driver.script('echo hello'), 'unexpected: hello'],
    ['is cut short', () => driver.script('echo "<nvidia_smi_log><gpu>"'), 'unexpected'],
    ['says what is no XML', () => driver.script('echo "<nvidia_smi_log><</nvidia_smi_log>"'), 'unexpected'],
    ['says too much', () => driver.script('exec yes'), 'more than 4194304 bytes'],
    ['hangs', () => driver.put('hang', ''), 'did not answer within 1000 ms'],
  ])(
    'keeps its GPUs, healthy but stale, while nvidia-smi %s, and recovers',
    async (_what, breakIt, reason) => {
      await twoCards()
      const opening = await opened({ sampleIntervalMs: 30, deadlineMs: 1_000 })
      await breakIt()
      await until(opening, (gpus) => gpus.every(({ stale, problem }) => stale && problem?.includes(reason)))
      expect(opening.list()).toMatchObject([
        { id: ONE, health: 'OK', telemetry: { memoryUsedMb: 100 } },
        { id: TWO, health: 'OK' },
      ])
      expect(driver.logged.filter((line) => line.startsWith('warn'))).toHaveLength(1)

      await driver.script(`export FAKE_NVIDIA_SMI=./gpus; . ${fakeScript}`)
      for (const file of ['hang', 'exit', 'stderr']) await driver.put(file, null)
      await until(opening, (gpus) => gpus.every(({ stale, problem }) => !stale && problem === null))
    },
  )

  it('is stale after two intervals without an answer, though the driver still has time for one', async () => {
    await twoCards()
    const opening = await opened({ sampleIntervalMs: 50, deadlineMs: 60_000 })
    await driver.put('hang', '')
    await until(opening, (gpus) => gpus.every(({ stale }) => stale))
    expect(Date.now() - sampledAt(opening)).toBeLessThan(10_000)
  })

  it('never has two programs at a time, though one does not end', async () => {
    await driver.script('echo $$ >> started; trap "" TERM; sleep 3600')
    inventory = await openGpuInventory({ ...options(), sampleIntervalMs: 10, deadlineMs: 100 })
    await Promise.all([inventory.refresh(), inventory.refresh(), inventory.refresh()])
    const pids = (await driver.read('started')).trim().split('\n')
    // Each has been killed before the next was started.
    await vi.waitFor(() => {
      expect(pids.slice(0, -1).filter(isRunning)).toEqual([])
    })
  })

  it('ends its program, and what that started, when it is disposed of', async () => {
    await twoCards()
    const opening = await opened({ sampleIntervalMs: 10 })
    await driver.script('sleep 3600 & echo $! > child.new; echo $$ >> child.new; mv child.new children; wait')
    const pids = (await vi.waitFor(() => driver.read('children'))).trim().split('\n')
    expect(pids).toHaveLength(2)
    const refreshed = opening.refresh()
    await opening[Symbol.asyncDispose]()
    await refreshed
    await vi.waitFor(() => {
      expect(pids.filter(isRunning)).toEqual([])
    })
  })
})

describe('a refresh', () => {
  it('resolves with a sample that was begun after it was asked for, one for all who ask', async () => {
    await twoCards()
    const opening = await opened()
    await driver.script(`echo x >> asked; export FAKE_NVIDIA_SMI=./gpus; . ${fakeScript}`)
    const first = opening.refresh()
    await driver.put('0.xml', card({ uuid: ONE, used: 42 }))
    await Promise.all([first, opening.refresh(), opening.refresh(), opening.refresh()])
    expect(opening.list()[0]?.telemetry?.memoryUsedMb).toBe(42)
    expect((await driver.read('asked')).match(/x/g)).toHaveLength(2)
  })

  it('resolves at the deadline where no sample can be had', async () => {
    await twoCards()
    const opening = await opened({ deadlineMs: 200 })
    await driver.put('hang', '')
    const askedAt = performance.now()
    await Promise.all([opening.refresh(), opening.refresh()])
    expect(performance.now() - askedAt).toBeLessThan(2_000)
    expect(opening.list()).toHaveLength(2)
  })
})

describe('a GPU that is lost', () => {
  it('stays listed as LOST where a good answer leaves it out, and is back after three samples in a row', async () => {
    await twoCards()
    const opening = await opened()
    await driver.put('1.xml', null)
    await opening.refresh()
    expect(opening.list()).toMatchObject([
      { id: ONE, health: 'OK' },
      { id: TWO, health: 'LOST', problem: 'The driver lists it no more.', telemetry: { memoryUsedMb: 100 } },
    ])
    await driver.put('1.xml', card({ uuid: TWO, bus: '02:00.0' }))
    await opening.refresh()
    await opening.refresh()
    expect(healthOf(TWO)).toBe('LOST')
    await opening.refresh()
    expect(opening.list()[1]).toMatchObject({ id: TWO, health: 'OK', problem: null })
    expect(driver.logged.filter((line) => line.includes(TWO))).toHaveLength(2)
  })

  it('begins to count again where it goes in between', async () => {
    await twoCards()
    const opening = await opened()
    const there = card({ uuid: TWO, bus: '02:00.0' })
    for (const answer of [null, there, there, null, there, there]) {
      await driver.put('1.xml', answer)
      await opening.refresh()
      expect(healthOf(TWO)).toBe('LOST')
    }
    await opening.refresh()
    expect(healthOf(TWO)).toBe('OK')
  })

  it.each([
    ['0000:02:00.0: GPU is lost.  Reboot the system to recover this GPU', 'GPU is lost. Reboot the system'],
    ['0000:02:00.0: Unknown Error', 'Unknown Error'],
    ['1: 0000:02:00.0: Unknown Error', 'Unknown Error'],
    ['1: Unknown Error', 'Unknown Error'],
  ])('is LOST where the driver names it so: %s', async (words, reason) => {
    await twoCards()
    const opening = await opened()
    await driver.put('1.lost', words)
    await driver.put('exit', '15')
    await opening.refresh()
    expect(opening.list()).toMatchObject([
      { id: ONE, health: 'OK', stale: false },
      { id: TWO, health: 'LOST' },
    ])
    expect(opening.list()[1]?.problem).toContain(reason)
  })

  it('does not hide the others where nvidia-smi stops at it', async () => {
    await twoCards()
    const opening = await opened()
    await driver.put('0.lost', '0000:01:00.0: GPU is lost.  Reboot the system to recover this GPU')
    await driver.put('stops-at-lost', '')
    await driver.put('1.xml', card({ uuid: TWO, bus: '02:00.0', used: 77 }))
    await opening.refresh()
    expect(opening.list()).toMatchObject([
      { id: ONE, index: 0, health: 'LOST' },
      { id: TWO, index: 1, health: 'OK', telemetry: { memoryUsedMb: 77 } },
    ])
  })

  it.each([
    ['its readings are the words of an error', card({ uuid: TWO, bus: '02:00.0', ecc: 'GPU is lost' })],
    ['its memory cannot be read', card({ uuid: TWO, bus: '02:00.0', used: 'Unknown Error' })],
    ['its id cannot be read', card({ uuid: 'GPU is lost', bus: '02:00.0' })],
  ])('is LOST where %s', async (_what, answer) => {
    await twoCards()
    const opening = await opened()
    await driver.put('1.xml', answer)
    await opening.refresh()
    expect(healthOf(TWO)).toBe('LOST')
    expect(healthOf(ONE)).toBe('OK')
  })

  it('is listed though it is LOST at first sight', async () => {
    await driver.put('0.xml', card({ uuid: ONE, used: 'GPU is lost', ecc: 'GPU is lost' }))
    const opening = await opened()
    expect(opening.list()).toMatchObject([
      {
        id: ONE,
        health: 'LOST',
        problem: 'The driver answers: GPU is lost.',
        telemetry: { memoryUsedMb: null },
      },
    ])
    await driver.put('0.xml', card({ uuid: ONE }))
    for (const health of ['LOST', 'LOST', 'OK']) {
      await opening.refresh()
      expect(healthOf(ONE)).toBe(health)
    }
  })

  it('is not LOST for an answer that is not whole', async () => {
    await twoCards()
    const opening = await opened()
    await driver.put('1.xml', null)
    await driver.put('exit', '255')
    await opening.refresh()
    expect(healthOf(TWO)).toBe('OK')
  })

  it('is QUARANTINED where it comes back with a fault', async () => {
    await twoCards()
    const opening = await opened()
    await driver.put('1.xml', null)
    await opening.refresh()
    const more = '<gpu_recovery_action>Reset</gpu_recovery_action>'
    await driver.put('1.xml', card({ uuid: TWO, bus: '02:00.0', more }))
    await opening.refresh()
    expect(opening.list()[1]).toMatchObject({ health: 'QUARANTINED', problem: 'The driver asks for: Reset.' })
  })
})

describe('a GPU with a fault', () => {
  it.each([
    ['<gpu_recovery_action>Drain and Reset</gpu_recovery_action>', 'asks for: Drain and Reset'],
    ['<gpu_reset_status><reset_required>Yes</reset_required></gpu_reset_status>', 'asks for a reset'],
    ['<remapped_rows><remapped_row_failure>Yes</remapped_row_failure></remapped_rows>', 'not be replaced'],
    ['<remapped_rows><remapped_row_pending>Yes</remapped_row_pending></remapped_rows>', 'at its next reset'],
    ['<retired_pages><pending_retirement>Yes</pending_retirement></retired_pages>', 'is retired when'],
    ['<utilization><gpu_util>GPU requires reset</gpu_util></utilization>', 'GPU requires reset'],
  ])('is QUARANTINED for %s until an operator takes it back', async (more, problem) => {
    await twoCards()
    const opening = await opened()
    await driver.put('1.xml', card({ uuid: TWO, bus: '02:00.0', more }))
    await opening.refresh()
    expect(opening.list()[1]).toMatchObject({
      health: 'QUARANTINED',
      problem: expect.stringContaining(problem) as string,
    })
    expect(healthOf(ONE)).toBe('OK')

    const changes = changesOf(opening)
    expect(opening.restore(TWO)).toBe(true)
    expect(await changes.next()).toEqual([TWO])
    await opening.refresh()
    expect(opening.list()[1], 'the same fault is no news').toMatchObject({ health: 'OK', problem: null })

    await driver.put('1.xml', card({ uuid: TWO, bus: '02:00.0' }))
    await opening.refresh()
    await driver.put('1.xml', card({ uuid: TWO, bus: '02:00.0', more }))
    await opening.refresh()
    expect(healthOf(TWO), 'one that comes again is').toBe('QUARANTINED')
  })

  it('stays QUARANTINED though its fault passes', async () => {
    await twoCards()
    const opening = await opened()
    await driver.put(
      '1.xml',
      card({ uuid: TWO, bus: '02:00.0', more: '<gpu_recovery_action>Reset</gpu_recovery_action>' }),
    )
    await opening.refresh()
    await driver.put('1.xml', card({ uuid: TWO, bus: '02:00.0' }))
    await opening.refresh()
    expect(healthOf(TWO)).toBe('QUARANTINED')
  })

  it.each(['None', 'N/A', 'Unknown Error', 'Requested functionality has been deprecated'])(
    'is none for the recovery action %s',
    async (action) => {
      const more = `<gpu_recovery_action>${action}</gpu_recovery_action>`
      await driver.put('0.xml', card({ uuid: ONE, more }))
      await opened()
      expect(healthOf(ONE)).toBe('OK')
    },
  )

  it('is QUARANTINED as its ECC errors rise, not for old ones, and again as they rise further', async () => {
    const counting = async (ecc: number): Promise<Gpu['health'] | undefined> => {
      await driver.put('0.xml', card({ uuid: ONE, ecc }))
      await opening.refresh()
      return healthOf(ONE)
    }
    await driver.put('0.xml', card({ uuid: ONE, ecc: 2 }))
    const opening = await opened()
    expect(healthOf(ONE)).toBe('OK')
    expect(await counting(3)).toBe('QUARANTINED')
    expect(opening.list()[0]?.problem).toBe('Its uncorrectable ECC errors rose from 2 to 3.')
    opening.restore(ONE)
    expect(await counting(3)).toBe('OK')
    // The driver was loaded anew and counts from the start.
    expect(await counting(0)).toBe('OK')
    expect(await counting(1)).toBe('QUARANTINED')
    expect(await counting(0)).toBe('QUARANTINED')
  })

  it('is unknown to restore where it was never there', async () => {
    await twoCards()
    expect((await opened()).restore('GPU-00000000-dead' as GpuId)).toBe(false)
  })
})

describe('a machine whose GPUs cannot be told', () => {
  it('has none for good where there is no nvidia-smi', async () => {
    await rm(driver.program)
    inventory = await openGpuInventory(options())
    expect(inventory.source).toBe('none')
    expect(driver.logged.join()).toContain('ENOENT')
    await inventory.refresh()
    expect(inventory.list()).toEqual([])
    expect(inventory.restore(ONE)).toBe(false)
  })

  it.each([
    ['it cannot be executed', () => chmod(driver.program, 0o600), 'EACCES'],
    [
      'the driver is not ready',
      () => failing(9, "couldn't communicate with the NVIDIA driver"),
      'ended with 9',
    ],
    ['it says garbage', () => driver.script('echo "<html>"'), 'unexpected: <html>'],
    ['it says too much', () => driver.script('exec yes'), 'more than 4194304 bytes'],
    ['it hangs', () => driver.put('hang', ''), 'did not answer within 1000 ms'],
    ['it lists none', () => driver.put('0.xml', null), ''],
  ])('waits for them where %s, and lists them as they appear', async (_what, breakIt, reason) => {
    await breakIt()
    inventory = await openGpuInventory({ ...options(), sampleIntervalMs: 30, deadlineMs: 1_000 })
    expect(inventory.source).toBe('nvidia-smi')
    expect(inventory.list()).toEqual([])
    expect(driver.logged.join()).toContain(reason)
    await twoCards()
    await driver.script(`export FAKE_NVIDIA_SMI=./gpus; . ${fakeScript}`)
    for (const file of ['hang', 'exit', 'stderr']) await driver.put(file, null)
    await until(inventory, (gpus) => gpus.length === 2)
    expect(inventory.list()).toMatchObject([{ health: 'OK' }, { health: 'OK' }])
  })

  it('is not asked where GPUs are switched off', async () => {
    await driver.script('touch asked')
    inventory = await openGpuInventory({ ...options(), source: 'none' })
    expect(inventory.source).toBe('none')
    await expect(driver.read('asked')).rejects.toThrow('ENOENT')
  })
})

const fakeScript = new URL('fake-nvidia-smi.sh', import.meta.url).pathname

async function twoCards(): Promise<void> {
  await driver.put('0.xml', card({ uuid: ONE }))
  await driver.put('1.xml', card({ uuid: TWO, bus: '02:00.0' }))
}

async function failing(code: number, words: string): Promise<void> {
  await driver.script(`echo "${words}" >&2; exit ${code}`)
}

function options(): GpuInventoryOptions {
  return {
    source: 'auto',
    nvidiaSmi: driver.program,
    sampleIntervalMs: ON_DEMAND,
    deadlineMs: 10_000,
    logger: driver.logger,
  }
}

async function opened(overrides: Partial<GpuInventoryOptions> = {}): Promise<GpuInventory> {
  return (inventory = await openGpuInventory({ ...options(), ...overrides }))
}

/** One that has ended and is not yet cleared away runs no more. */
function isRunning(pid: string): boolean {
  try {
    return !/^\d+ \(.*\) [ZX]/.test(readFileSync(`/proc/${pid}/stat`, 'utf8'))
  } catch {
    return false
  }
}

function healthOf(id: GpuId): Gpu['health'] | undefined {
  return inventory?.list().find((gpu) => gpu.id === id)?.health
}

function sampledAt(opening: GpuInventory): number {
  return opening.list()[0]?.telemetry?.sampledAt ?? 0
}
