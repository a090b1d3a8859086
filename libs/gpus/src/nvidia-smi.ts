import type { GpuId, Logger } from '@gpu-service/tasks'
import {
  type Card,
  type Listing,
  type LostCard,
  parseCards,
  parseListing,
  parseLostCards,
} from './nvidia-smi-output.ts'
import { createProgram, type ProgramAnswer } from './program.ts'
import type { GpuReading, GpuSample, GpuSampler } from './sample.ts'

const QUERY = ['-q', '-x']
const LIST = ['-L']
/** A card with many clocks says 120 kB. */
const MAX_OUTPUT_BYTES = 4 * 1024 * 1024

export interface NvidiaSmi extends GpuSampler {
  /** There was no such program when it was last asked. */
  readonly isMissing: boolean
}

/**
 * Asks the driver by `nvidia-smi -q -x`: everything in one answer, of which what is not there is merely not told. `--query-gpu` would fail as a
 * whole for one field that a driver does not know, and `-d` for one section. Only `nvidia-smi -L` tells the cards' numbers (the XML has their
 * order, from which a lost card is missing) and, for many drivers, the ids of MIG devices: it is asked where there are such devices or other cards
 * than before.
 */
export function createNvidiaSmi(options: { path: string; deadlineMs: number; logger: Logger }): NvidiaSmi {
  const { path, deadlineMs, logger } = options
  const program = createProgram({ path, maxOutputBytes: MAX_OUTPUT_BYTES })
  let isMissing = false
  let listed: { readonly cards: string; readonly listing: Listing } | null = null
  /** Cards by their id, to know again one of which the driver tells its place alone. */
  const places = new Map<GpuId, { index: number; bus: string | null }>()

  async function sampleUntil(deadlineAtMs: number): Promise<GpuSample> {
    const ask = (args: readonly string[]): Promise<ProgramAnswer> =>
      program.ask(args, Math.max(1, Math.round(deadlineAtMs - performance.now())))

    const answer = await ask(QUERY)
    isMissing = answer.status === 'failed' && answer.missing
    if (answer.status === 'failed') return failed(answer.reason)
    const said = `${answer.stderr}\n${answer.stdout}`
    const skipped = identified(parseLostCards(said))
    const cards = parseCards(answer.stdout) ?? (skipped.size > 0 ? await askSingly(ask, skipped) : null)
    if (!cards) return failed(complaintOf(answer.code, said))

    const listing = await listingOf(cards, ask)
    if (!listing) return failed('nvidia-smi -L does not name the MIG devices.')
    return sampleOf(cards, listing, { skipped, isWhole: answer.code === 0 })
  }

  /** Older versions stop at a lost card: the others are asked one by one. */
  async function askSingly(
    ask: (args: readonly string[]) => Promise<ProgramAnswer>,
    skipped: ReadonlyMap<GpuId, string>,
  ): Promise<readonly Card[]> {
    const cards: Card[] = []
    for (const id of [...places.keys()].filter((one) => !skipped.has(one))) {
      const answer = await ask([...QUERY, '-i', id])
      if (answer.status === 'failed') break
      cards.push(...(parseCards(answer.stdout) ?? []).filter((card) => card.id === id))
    }
    return cards
  }

  async function listingOf(
    cards: readonly Card[],
    ask: (args: readonly string[]) => Promise<ProgramAnswer>,
  ): Promise<Listing | null> {
    const key = cards.map(({ id }) => id).join()
    const migs = cards.flatMap(({ migDevices }) => migDevices)
    if (listed?.cards === key && migs.length === 0) return listed.listing
    const answer = await ask(LIST)
    const listing = parseListing(answer.status === 'ended' ? answer.stdout : '')
    const isNamed = (card: Card): boolean =>
      card.migDevices.every(({ id, index }) => id ?? (card.id && listing.migs.get(card.id)?.has(index)))
    if (!cards.every(isNamed)) return null
    // One that was not to be had is not asked for with every sample.
    listed = { cards: key, listing }
    return listing
  }

  function sampleOf(
    cards: readonly Card[],
    listing: Listing,
    { skipped, isWhole }: { skipped: ReadonlyMap<GpuId, string>; isWhole: boolean },
  ): GpuSample {
    const readings: GpuReading[] = []
    const lost = new Map(skipped)
    for (const [position, card] of cards.entries()) {
      const { bus } = card
      const id = card.id ?? idAt({ index: null, bus })
      if (!id) {
        noteUnknown(`${card.name} at ${bus ?? 'an unknown place'} has no UUID.`)
        continue
      }
      if (card.lost !== null) lost.set(id, card.lost)
      // What is known of it is from better times; at first sight, this is all there is to list.
      if (card.lost !== null && places.has(id)) continue
      const index = listing.indices.get(id) ?? places.get(id)?.index ?? position
      places.set(id, { index, bus })
      readings.push(...readingsOf({ ...card, id }, index, listing))
    }
    // Only an answer that is whole says by silence that a card is gone.
    const heard = new Set(readings.map(({ id }) => id))
    const silent = isWhole ? [] : [...places.keys()].filter((id) => !heard.has(id) && !lost.has(id))
    return {
      status: 'read',
      readings,
      lost,
      silent: new Map(silent.map((id) => [id, 'nvidia-smi said nothing of it.'])),
    }
  }

  function identified(lostCards: readonly LostCard[]): ReadonlyMap<GpuId, string> {
    const found = new Map<GpuId, string>()
    for (const card of lostCards) {
      const id = idAt(card)
      if (id) found.set(id, card.reason)
      else noteUnknown(`A GPU at ${card.bus ?? card.index ?? 'an unknown place'}: ${card.reason}`)
    }
    return found
  }

  function idAt({ index, bus }: { index: number | null; bus: string | null }): GpuId | null {
    for (const [id, place] of places) {
      if (bus === null ? index !== null && place.index === index : place.bus === bus) return id
    }
    return null
  }

  const noted = new Set<string>()
  /** A card that cannot be listed, for want of an id, is at least in the log; once. */
  function noteUnknown(note: string): void {
    if (noted.has(note) || noted.size >= 100) return
    noted.add(note)
    logger.warn({ note }, 'A GPU cannot be used')
  }

  return {
    get isMissing() {
      return isMissing
    },
    sample: () => sampleUntil(performance.now() + deadlineMs),
    [Symbol.asyncDispose]: () => program[Symbol.asyncDispose](),
  }
}

/** The card's, then those of its MIG devices. What is wrong with the card is wrong with them. */
function readingsOf(card: Card & { id: GpuId }, index: number, listing: Listing): GpuReading[] {
  const { id, name, memoryTotalMb, meters, faults } = card
  const own = { id, index, name, memoryTotalMb, parentId: null, migIndex: 0, meters, faults }
  const migs = card.migDevices.flatMap((device) => {
    const told = listing.migs.get(id)?.get(device.index)
    const migId = device.id ?? told?.id
    if (!migId) return []
    return [
      {
        id: migId,
        index,
        name: `${name} MIG ${told?.profile ?? device.index}`,
        memoryTotalMb: device.memoryTotalMb,
        parentId: id,
        migIndex: device.index,
        meters: device.meters,
        faults,
      },
    ]
  })
  return [own, ...migs]
}

function complaintOf(code: number, said: string): string {
  const words = said.trim().replace(/\s+/g, ' ').slice(0, 500)
  return code === 0
    ? `nvidia-smi said something unexpected: ${words}`
    : `nvidia-smi ended with ${code}: ${words}`
}

function failed(reason: string): GpuSample {
  return { status: 'failed', reason }
}
