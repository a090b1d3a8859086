import { readFile } from 'node:fs/promises'
import type { Gpu, GpuInventory } from '@gpu-service/tasks'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { openGpuInventory } from '../src/index.ts'
import { card, createFakeDriver, type FakeDriver } from './driver.ts'

const A100 = 'GPU-eeee0000-1111-2222-3333-000000000000'

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

describe('the answer of a driver', () => {
  it('tells the meters and the processes of H100 cards', async () => {
    expect(await answered('h100-driver-580.xml')).toMatchObject([
      {
        id: 'GPU-aaaa0000-1111-2222-3333-000000000000',
        index: 0,
        name: 'NVIDIA H100 80GB HBM3',
        memoryTotalMb: 81_559,
        health: 'OK',
        telemetry: {
          // With the 584 that the driver keeps for itself.
          memoryUsedMb: 20_514 + 584,
          utilizationPercent: 97,
          temperatureC: 61,
          powerW: 612.4,
          eccErrors: 0,
          processes: [
            { pid: 4711, name: '/usr/bin/python3', memoryMb: 20_480, workerId: null },
            { pid: 812, name: '/usr/lib/xorg/Xorg & friends', memoryMb: 24, workerId: null },
          ],
        },
      },
      // Its minor number is 0; its place in the answer is what counts.
      { id: 'GPU-aaaa0000-1111-2222-3333-000000000001', index: 1, telemetry: { processes: [] } },
    ])
  })

  it('tells an older driver apart: ECC counts by other names, power elsewhere, processes not at all', async () => {
    expect(await answered('t4-driver-515.xml')).toMatchObject([
      { name: 'Tesla T4', health: 'OK', telemetry: { eccErrors: 2, powerW: 26.78, processes: null } },
    ])
  })

  it('tells nothing of memory where the GPU shares that of the host', async () => {
    expect(await answered('gb10-driver-580.xml')).toMatchObject([
      {
        name: 'NVIDIA GB10',
        memoryTotalMb: 0,
        health: 'OK',
        problem: null,
        telemetry: { memoryUsedMb: null, eccErrors: null, powerW: 11.17, processes: [{ memoryMb: 310 }] },
      },
    ])
  })

  it('tells processes without their memory inside Windows', async () => {
    expect(await answered('rtx-3060-wddm-driver-566.xml')).toMatchObject([
      {
        memoryTotalMb: 12_288,
        health: 'OK',
        telemetry: {
          eccErrors: null,
          processes: [
            { pid: 5196, name: 'C:\\Windows\\explorer.exe', memoryMb: null },
            { pid: 6000, name: 'Insufficient Permissions', memoryMb: null },
          ],
        },
      },
    ])
  })

  it.each([
    ['a100-mig-driver-535.list.txt', 'MIG-eeee0000-aaaa-5555-8888-00000000000'],
    ['a100-mig-driver-450.list.txt', `MIG-${A100}/`],
  ])('tells the MIG devices of a card, each a GPU of its own, after it (%s)', async (list, id) => {
    const gpus = await answered('a100-mig-driver-535.xml', list)
    expect(gpus).toMatchObject([
      {
        id: A100,
        index: 0,
        parentId: null,
        telemetry: { memoryUsedMb: null, temperatureC: 27, powerW: 67.03, processes: [{ pid: 3001 }] },
      },
      {
        index: 0,
        name: 'NVIDIA A100-SXM4-40GB MIG 3g.20gb',
        memoryTotalMb: 19_968,
        parentId: A100,
        health: 'OK',
        telemetry: { memoryUsedMb: 1_200, temperatureC: null, powerW: null, processes: [{ pid: 3001 }] },
      },
      {
        index: 0,
        name: 'NVIDIA A100-SXM4-40GB MIG 1g.5gb',
        memoryTotalMb: 4_864,
        parentId: A100,
        telemetry: { memoryUsedMb: 12, eccErrors: 0, processes: [] },
      },
    ])
    for (const gpu of gpus.slice(1)) expect(gpu.id.startsWith(id), gpu.id).toBe(true)
  })

  it('is of no use where it does not name its MIG devices', async () => {
    expect(await answered('a100-mig-driver-535.xml')).toEqual([])
    expect(driver.logged.join()).toContain('does not name the MIG devices')
  })

  it('makes the MIG devices share what is wrong with their card, and what an operator says of it', async () => {
    await answered('a100-mig-driver-535.xml', 'a100-mig-driver-535.list.txt', (text) =>
      text.replace('<reset_required>No', '<reset_required>Yes'),
    )
    const healths = (): unknown => inventory?.list().map(({ health }) => health)
    expect(healths()).toEqual(['QUARANTINED', 'QUARANTINED', 'QUARANTINED'])
    const [parent] = inventory?.list() ?? []
    expect(parent && inventory?.restore(parent.id)).toBe(true)
    await inventory?.refresh()
    expect(healths()).toEqual(['OK', 'OK', 'OK'])
  })

  it('keeps a card out of use whose MIG mode is on without a device, for as long as it is so', async () => {
    const mig = (mode: string): string =>
      card({
        uuid: A100,
        more: `<mig_mode><current_mig>${mode}</current_mig></mig_mode><mig_devices>None</mig_devices>`,
      })
    await driver.put('0.xml', mig('Enabled'))
    const opening = await open()
    expect(opening.list()).toMatchObject([{ health: 'QUARANTINED' }])
    expect(opening.list()[0]?.problem).toContain('no MIG device is made')
    await driver.put('0.xml', mig('Disabled'))
    await opening.refresh()
    expect(opening.list()).toMatchObject([{ health: 'OK', problem: null }])
  })

  it('may be as short as this, and the same for every question', async () => {
    await driver.script(
      `echo '<nvidia_smi_log><gpu><uuid>${A100}</uuid><product_name>Test GPU</product_name>
<fb_memory_usage><total>8192 MiB</total><used>0 MiB</used></fb_memory_usage></gpu></nvidia_smi_log>'`,
    )
    expect((await open()).list()).toMatchObject([
      { id: A100, index: 0, name: 'Test GPU', memoryTotalMb: 8192, health: 'OK', problem: null },
    ])
  })

  it('is read though warnings stand around it', async () => {
    await driver.put('0.xml', card({ uuid: A100 }))
    await driver.put('stderr', 'WARNING: infoROM is corrupted at gpu 0000:01:00.0\n')
    await driver.put('exit', '14')
    expect((await open()).list()).toMatchObject([{ id: A100, health: 'OK' }])
  })

  it('is read though each card lists thousands of clocks', async () => {
    const clocks = '<supported_graphics_clock>1980 MHz</supported_graphics_clock>\n'.repeat(3_500)
    for (const index of [0, 1, 2, 3]) {
      const more = `<supported_clocks>${clocks}</supported_clocks>`
      await driver.put(
        `${index}.xml`,
        card({ uuid: A100.replace(/0$/, String(index)), bus: `0${index}:00.0`, more }),
      )
    }
    expect((await open()).list()).toHaveLength(4)
  })

  it.each([
    ['more processes than the answer may hold', '<process_info><pid>1</pid></process_info>'.repeat(30_000)],
    ['elements in elements', '<a>'.repeat(100_000)],
    ['lists of clocks that never end', '<supported_clocks>'.repeat(200_000)],
  ])('is refused with %s', async (_what, processes) => {
    await driver.put('0.xml', card({ uuid: A100, more: `<processes>${processes}</processes>` }))
    expect((await open()).list()).toEqual([])
    expect(driver.logged.join()).toContain('unexpected')
  })

  it('names what it cannot list in the log, once', async () => {
    await driver.put('0.xml', card({ uuid: 'N/A' }))
    const opening = await open()
    await opening.refresh()
    expect(opening.list()).toEqual([])
    expect(driver.logged.filter((line) => line.includes('has no UUID'))).toHaveLength(1)
  })
})

/** What is listed after a recorded answer. */
async function answered(
  fixture: string,
  list: string | null = null,
  edit: (text: string) => string = (text) => text,
): Promise<readonly Gpu[]> {
  const [, gpus = ''] = /(<gpu .*<\/gpu>)/s.exec(edit(await textOf(fixture))) ?? []
  await driver.put('0.xml', gpus)
  if (list !== null) {
    const [, ...migs] = (await textOf(list)).split('\n')
    await driver.put('0.list', migs.join('\n'))
  }
  return (await open()).list()
}

function textOf(fixture: string): Promise<string> {
  return readFile(new URL(`fixtures/${fixture}`, import.meta.url), 'utf8')
}

async function open(): Promise<GpuInventory> {
  const { program, logger } = driver
  return (inventory = await openGpuInventory({
    source: 'auto',
    nvidiaSmi: program,
    sampleIntervalMs: 3_600_000,
    logger,
  }))
}
