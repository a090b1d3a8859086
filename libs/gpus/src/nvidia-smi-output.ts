import { XMLParser } from 'fast-xml-parser'
import type { GpuId, GpuProcess, GpuTelemetry } from '@gpu-service/tasks'
import type { GpuFault } from './sample.ts'

/** What `nvidia-smi -q -x` says of one card. */
export interface Card {
  readonly id: GpuId | null
  /** Where it is plugged in, as `busKeyOf` writes it; `null` where it is not said. */
  readonly bus: string | null
  readonly name: string
  readonly memoryTotalMb: number
  readonly meters: Omit<GpuTelemetry, 'sampledAt'>
  readonly faults: readonly GpuFault[]
  /** In the driver's words, where it has given the card up. */
  readonly lost: string | null
  readonly migDevices: readonly MigDevice[]
}

export interface MigDevice {
  /** Among those of its card. */
  readonly index: number
  /** Newer drivers say it; for the others, see `Listing`. */
  readonly id: GpuId | null
  readonly memoryTotalMb: number
  readonly meters: Omit<GpuTelemetry, 'sampledAt'>
}

/** What `nvidia-smi -L` knows better than the other: numbers, and the names and ids of MIG devices. */
export interface Listing {
  readonly indices: ReadonlyMap<GpuId, number>
  readonly migs: ReadonlyMap<GpuId, ReadonlyMap<number, { readonly id: GpuId; readonly profile: string }>>
}

/** A card that cannot be asked: named by its number, its place on the bus, or both. */
export interface LostCard {
  readonly index: number | null
  readonly bus: string | null
  readonly reason: string
}

/** Of the XML, without the lists of clocks; 17 kB and 150 bytes a process are usual for a card. */
const MAX_XML_CHARS = 1024 * 1024
const MAX_CARDS = 64
const MAX_MIG_DEVICES = 16
const MAX_PROCESSES = 512
const MAX_TEXT_CHARS = 200

const LOG_END = '</nvidia_smi_log>'
const CLOCKS_START = '<supported_clocks>'
const CLOCKS_END = '</supported_clocks>'

const CARD_ID = /^GPU-[\da-fA-F-]{8,64}$/
/** Drivers before 470 write `MIG-GPU-<uuid>/<instance>/<instance>`. */
const MIG_ID = /^MIG-[\da-zA-Z/-]{8,80}$/

const parser = new XMLParser({
  ignoreAttributes: false,
  attributeNamePrefix: '@',
  parseTagValue: false,
  isArray: (tag) => tag === 'gpu' || tag === 'mig_device' || tag === 'process_info',
})

/** Reads `nvidia-smi -q -x`, whatever warnings are printed around it. `null`: it is not such a document, or cut short. */
export function parseCards(text: string): readonly Card[] | null {
  const [start, end] = [text.indexOf('<nvidia_smi_log'), text.lastIndexOf(LOG_END)]
  if (start < 0 || end < start) return null
  const xml = withoutClocks(text.slice(start, end + LOG_END.length))
  if (xml.length > MAX_XML_CHARS) return null
  let log: Node
  try {
    log = child(parser.parse(xml), 'nvidia_smi_log')
  } catch {
    return null
  }
  const nodes = childrenOf(log, 'gpu')
  if (nodes.length > MAX_CARDS || (nodes.length === 0 && textOf(log, 'attached_gpus') !== '0')) return null
  return nodes.map(cardOf)
}

/** Leaves out a hundred kilobytes a card that are of no use here. Not by a pattern: one takes minutes over a text that opens and never closes. */
function withoutClocks(xml: string): string {
  const kept: string[] = []
  let from = 0
  for (;;) {
    const start = xml.indexOf(CLOCKS_START, from)
    const end = start < 0 ? -1 : xml.indexOf(CLOCKS_END, start)
    if (end < 0) return kept.join('') + xml.slice(from)
    kept.push(xml.slice(from, start))
    from = end + CLOCKS_END.length
  }
}

function cardOf(gpu: Node): Card {
  const id = textOf(gpu, 'uuid')
  const isMig = textOf(gpu, 'mig_mode', 'current_mig') === 'Enabled'
  const migDevices = childrenOf(child(gpu, 'mig_devices'), 'mig_device').slice(0, MAX_MIG_DEVICES)
  const processes = processesOf(gpu)
  const volatile = child(gpu, 'ecc_errors', 'volatile')
  return {
    id: CARD_ID.test(id) ? (id as GpuId) : null,
    bus: busKeyOf(textOf(gpu, '@id')) ?? busKeyOf(textOf(gpu, 'pci', 'pci_bus_id')),
    name: textOf(gpu, 'product_name') || 'NVIDIA GPU',
    memoryTotalMb: numberOf(gpu, 'fb_memory_usage', 'total') ?? 0,
    meters: {
      memoryUsedMb: usedMemoryOf(gpu),
      utilizationPercent: numberOf(gpu, 'utilization', 'gpu_util'),
      temperatureC: numberOf(gpu, 'temperature', 'gpu_temp'),
      powerW: powerOf(gpu),
      eccErrors: uncorrectableOf(volatile),
      processes: processes?.map(({ process }) => process) ?? null,
    },
    faults: faultsOf(gpu, isMig && migDevices.length === 0),
    lost: lossOf(gpu),
    migDevices: migDevices.flatMap((device) => migDeviceOf(device, processes)),
  }
}

function migDeviceOf(device: Node, processes: readonly PlacedProcess[] | null): MigDevice[] {
  const index = numberOf(device, 'index')
  if (index === null) return []
  const id = textOf(device, 'uuid')
  const instance = instanceOf(device)
  return [
    {
      index,
      id: MIG_ID.test(id) ? (id as GpuId) : null,
      memoryTotalMb: numberOf(device, 'fb_memory_usage', 'total') ?? 0,
      meters: {
        memoryUsedMb: usedMemoryOf(device),
        // Measured for whole cards only.
        utilizationPercent: null,
        temperatureC: null,
        powerW: null,
        eccErrors: uncorrectableOf(child(device, 'ecc_error_count', 'volatile_count')),
        processes:
          processes?.filter((one) => one.instance === instance).map(({ process }) => process) ?? null,
      },
    },
  ]
}

interface PlacedProcess {
  readonly process: GpuProcess
  /** The part of a divided card. */
  readonly instance: string
}

/** `null` where the driver does not list them: that is not the same as none. */
function processesOf(gpu: Node): readonly PlacedProcess[] | null {
  const told = gpu['processes']
  if (told === undefined || (typeof told === 'string' && told !== '')) return null
  return childrenOf(child(gpu, 'processes'), 'process_info')
    .slice(0, MAX_PROCESSES)
    .map((info) => ({
      instance: instanceOf(info),
      process: {
        pid: numberOf(info, 'pid'),
        name: textOf(info, 'process_name') || 'unknown',
        memoryMb: numberOf(info, 'used_memory'),
        workerId: null,
      },
    }))
}

function instanceOf(node: Node): string {
  return `${textOf(node, 'gpu_instance_id')}/${textOf(node, 'compute_instance_id')}`
}

/** Its place has changed from driver to driver. */
function powerOf(gpu: Node): number | null {
  return (
    numberOf(gpu, 'gpu_power_readings', 'instant_power_draw') ??
    numberOf(gpu, 'gpu_power_readings', 'average_power_draw') ??
    numberOf(gpu, 'gpu_power_readings', 'power_draw') ??
    numberOf(gpu, 'power_readings', 'power_draw')
  )
}

/** Of all kinds of memory together, or the total that drivers before 450 say. `null`: ECC is off, or not there. */
function uncorrectableOf(counts: Node): number | null {
  const total = numberOf(counts, 'double_bit', 'total')
  if (total !== null) return total
  const told = Object.keys(counts)
    .filter((name) => name.includes('_uncorrectable'))
    .map((name) => numberOf(counts, name))
    .filter((count) => count !== null)
  return told.length === 0 ? null : told.reduce((sum, count) => sum + count, 0)
}

function faultsOf(gpu: Node, isUndivided: boolean): GpuFault[] {
  const faults: GpuFault[] = []
  const lasting = (key: string, text: string): void => {
    faults.push({ key, text, passing: false })
  }
  const isYes = (...path: string[]): boolean => textOf(gpu, ...path) === 'Yes'
  const action = textOf(gpu, 'gpu_recovery_action')
  // Not merely another text than None: drivers without this field write other things into it.
  if (/reset|reboot|drain|recover/i.test(action)) {
    lasting(`recovery:${action}`, `The driver asks for: ${action}.`)
  }
  if (isYes('gpu_reset_status', 'reset_required')) lasting('reset', 'The driver asks for a reset.')
  else if (isYes('gpu_reset_status', 'drain_and_reset_recommended')) {
    lasting('drain', 'The driver asks for a reset as soon as it does nothing.')
  }
  if (probesOf(gpu).some((value) => /requires reset/i.test(value))) {
    lasting('requires-reset', 'The driver answers: GPU requires reset.')
  }
  if (isYes('remapped_rows', 'remapped_row_failure')) {
    lasting('remap-failure', 'A broken row of its memory could not be replaced.')
  }
  if (isYes('remapped_rows', 'remapped_row_pending')) {
    lasting('remap-pending', 'A broken row of its memory is replaced at its next reset.')
  }
  if (isYes('retired_pages', 'pending_retirement') || isYes('retired_pages', 'pending_blacklist')) {
    lasting('retirement-pending', 'A broken page of its memory is retired when the driver is loaded anew.')
  }
  if (isYes('ecc_errors', 'unrepairable_memory')) lasting('unrepairable', 'Its memory cannot be repaired.')
  if (isUndivided) {
    const text = 'MIG mode is on, and no MIG device is made: see nvidia-smi mig -cgi.'
    faults.push({ key: 'undivided', text, passing: true })
  }
  return faults
}

/** Readings that are replaced by the words of an error where the driver has lost the card. */
function probesOf(gpu: Node): string[] {
  return [
    textOf(gpu, 'fb_memory_usage', 'used'),
    textOf(gpu, 'fb_memory_usage', 'total'),
    textOf(gpu, 'utilization', 'gpu_util'),
    textOf(gpu, 'temperature', 'gpu_temp'),
    textOf(gpu, 'ecc_errors', 'volatile', 'dram_uncorrectable'),
    textOf(gpu, 'gpu_power_readings', 'instant_power_draw'),
    textOf(gpu, 'uuid'),
  ]
}

function lossOf(gpu: Node): string | null {
  const lost = probesOf(gpu).find((value) => /is lost|fallen off/i.test(value))
  if (lost !== undefined) return `The driver answers: ${lost}.`
  // One meter may fail without harm; a card whose memory cannot be read is no card.
  const memory = textOf(gpu, 'fb_memory_usage', 'used')
  return /error|err!/i.test(memory) ? `Its memory cannot be read: ${memory}.` : null
}

/** Reads `nvidia-smi -L`; lines that are not of its form are passed over. */
export function parseListing(text: string): Listing {
  const indices = new Map<GpuId, number>()
  const migs = new Map<GpuId, Map<number, { id: GpuId; profile: string }>>()
  let card: GpuId | null = null
  for (const line of text.split('\n').slice(0, MAX_CARDS * (MAX_MIG_DEVICES + 1))) {
    const [, index, cardId] = /^GPU (\d{1,3}): .{0,200}\(UUID: ([^)]{1,80})\)/.exec(line) ?? []
    if (index !== undefined && cardId !== undefined && CARD_ID.test(cardId)) {
      card = cardId as GpuId
      indices.set(card, Number(index))
      continue
    }
    const mig = /^\s{1,8}MIG (\S{1,40})\s{1,20}Device\s{1,4}(\d{1,3}): \(UUID: ([^)]{1,80})\)/.exec(line)
    const [, profile, device, migId] = mig ?? []
    if (!card || profile === undefined || device === undefined || !migId || !MIG_ID.test(migId)) continue
    const devices = migs.get(card) ?? new Map<number, { id: GpuId; profile: string }>()
    devices.set(Number(device), { id: migId as GpuId, profile })
    migs.set(card, devices)
  }
  return { indices, migs }
}

/**
 * Reads the lines with which nvidia-smi skips a card, or gives up:
 * `Unable to determine the device handle for GPU 0000:02:00.0: GPU is lost.  Reboot the system to recover this GPU`,
 * `… for GPU0000:07:00.0: Unknown Error`, `… for GPU3: 0000:5F:00.0: Unknown Error` or `… for GPU2: Unknown Error`, as the driver's age will have it.
 */
export function parseLostCards(text: string): readonly LostCard[] {
  const lines = text.split('\n').filter((line) => line.length <= 1_000)
  return lines.slice(0, 1_000).flatMap((line) => {
    const [, rest] = /Unable to determine the device handle for gpu ?(.*)/i.exec(line) ?? []
    if (rest === undefined) return []
    const [, index, afterIndex = rest] = /^(\d{1,3}): ?(?![\da-f]{2}:[\da-f]{2}\.)(.*)/i.exec(rest) ?? []
    const [, bus, afterBus = afterIndex] =
      /^([\da-f]{3,8}:[\da-f]{2}:[\da-f]{2}\.[\da-f]):? ?(.*)/i.exec(afterIndex) ?? []
    const reason = afterBus.trim().replace(/\s+/g, ' ').slice(0, MAX_TEXT_CHARS)
    return [
      {
        index: index === undefined ? null : Number(index),
        bus: bus === undefined ? null : busKeyOf(bus),
        reason: `The driver answers: ${reason || 'Unable to determine the device handle'}.`.replace(
          /\.\.$/,
          '.',
        ),
      },
    ]
  })
}

/** One form for `0000:1e:00.0` and `00000000:1E:00.0`. */
function busKeyOf(text: string): string | null {
  const [, domain, rest] = /^([\da-f]{1,8}):([\da-f]{2}:[\da-f]{2}\.[\da-f])$/i.exec(text) ?? []
  if (domain === undefined || rest === undefined) return null
  return `${Number.parseInt(domain, 16).toString(16)}:${rest.toLowerCase()}`
}

type Node = Readonly<Record<string, unknown>>

function isNode(value: unknown): value is Node {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** The one at the end of the path; an empty one where there is none. */
function child(value: unknown, ...path: readonly string[]): Node {
  let node = value
  for (const name of path) node = isNode(node) ? node[name] : undefined
  return isNode(node) ? node : {}
}

function childrenOf(node: Node, name: string): readonly Node[] {
  const children = node[name]
  return Array.isArray(children) ? children.filter(isNode) : []
}

/** Empty where there is none. */
function textOf(node: Node, ...path: readonly string[]): string {
  const name = path.at(-1)
  const value = name === undefined ? undefined : child(node, ...path.slice(0, -1))[name]
  return typeof value === 'string' ? value.slice(0, MAX_TEXT_CHARS).trim() : ''
}

/**
 * What nobody can have any more: what processes use, and what the driver keeps for itself (`reserved`, some hundred MB that `used` leaves out).
 */
function usedMemoryOf(node: Node): number | null {
  const usedMb = numberOf(node, 'fb_memory_usage', 'used')
  return usedMb === null ? null : usedMb + (numberOf(node, 'fb_memory_usage', 'reserved') ?? 0)
}

/** `null` where the driver does not tell, as in `N/A`, `Not Supported`, `Unknown Error` or `Insufficient Permissions`. */
function numberOf(node: Node, ...path: readonly string[]): number | null {
  const [, digits] = /^(-?\d{1,12}(?:\.\d{1,6})?)(?: ?(?:MiB|%|C|W))?$/.exec(textOf(node, ...path)) ?? []
  return digits === undefined ? null : Number(digits)
}
