import { createHash, type Hash } from 'node:crypto'
import type { GpuInventory, Task, TaskAttempt, TaskStore } from '@gpu-service/tasks'
import { shownSpec } from '../shown-spec.ts'
import { entriesOf, eventsOf } from './pages.ts'
import type { SigningKey } from './signing-key.ts'

export interface BundleSources {
  readonly store: TaskStore
  readonly gpus: Pick<GpuInventory, 'list'>
  readonly version: string
  readonly signingKey: SigningKey
}

/** What a bundle consists of, in this order. */
const PARTS = ['bundle', 'task', 'attempt', 'output', 'artifact', 'event', 'audit'] as const
type Part = (typeof PARTS)[number]

/** How a bundle is written; another number is read otherwise. */
const FORMAT = 1

/**
 * All that is stored of an ended task, line by line: NDJSON, so that it can be made and verified in a stretch however many events there are, and
 * read with any tool. A line is `{"part": …, "value": …}`. The last two lines are the manifest, with the number of lines and the SHA-256
 * of each part (over the bytes of its lines, line feeds included), and the signature: Ed25519 over the manifest's line with its line feed.
 */
export async function* bundleOf(sources: BundleSources, task: Task): AsyncGenerator<string, void> {
  const { signingKey } = sources
  const sums = new Map(PARTS.map((part): [Part, Sum] => [part, { lines: 0, hash: createHash('sha256') }]))
  for await (const [part, value] of valuesOf(sources, task)) {
    const line = `${JSON.stringify({ part, value })}\n`
    const sum = sums.get(part)
    if (sum === undefined) continue
    sum.lines++
    sum.hash.update(line)
    yield line
  }
  const parts = [...sums].map(([part, { lines, hash }]) => ({ part, lines, sha256: hash.digest('hex') }))
  const manifest = `${JSON.stringify({ manifest: { format: FORMAT, parts } })}\n`
  yield manifest
  const signature = {
    algorithm: 'Ed25519',
    publicKey: signingKey.publicKeyBytes.toString('base64'),
    fingerprint: signingKey.fingerprint,
    value: signingKey.sign(Buffer.from(manifest)).toString('base64'),
  }
  yield `${JSON.stringify({ signature })}\n`
}

interface Sum {
  lines: number
  readonly hash: Hash
}

async function* valuesOf(
  { store, gpus, version }: BundleSources,
  task: Task,
): AsyncGenerator<readonly [Part, unknown], void> {
  const { id } = task
  yield ['bundle', { taskId: id, installation: store.installation, version, madeAt: Date.now() }]
  yield ['task', { ...task, spec: shownSpec(task.spec) }]
  const names = new Map(gpus.list().map((gpu) => [gpu.id, gpu.name]))
  for (const attempt of await store.attempts(id)) yield ['attempt', await shownAttempt(store, attempt, names)]
  yield ['output', await store.output(id)]
  for (const artifact of await store.artifacts(id)) yield ['artifact', artifact]
  for await (const event of eventsOf(store, task)) yield ['event', event]
  for await (const entry of entriesOf(store, { targetKind: 'task', targetId: id })) yield ['audit', entry]
}

/** With what its worker was: of GPUs that are gone by now only the UUID is known. */
async function shownAttempt(store: TaskStore, attempt: TaskAttempt, names: ReadonlyMap<string, string>) {
  const { gpuIds, evidence } = attempt
  const worker = await store.worker(attempt.workerId)
  return {
    ...attempt,
    workerName: worker?.name ?? null,
    containerId: worker?.containerId ?? null,
    imageDigest: worker?.imageDigest ?? null,
    gpus: gpuIds.map((gpuId) => ({ id: gpuId, name: names.get(gpuId) ?? null })),
    evidence: evidence === null ? null : { ...evidence, spec: shownSpec(evidence.spec) },
  }
}
