import type { PresetId, WorkerHistory } from '@gpu-service/tasks'
import { Prisma, type PrismaClient } from './generated/client.ts'
import { toPresetId } from './rows.ts'

// Looked at, newest first by their ids, whatever they tell: so a read takes the same time in a large database.
const WORKERS = 2_000
const ATTEMPTS = 2_000

interface Measured {
  readonly specHash: string
  readonly presetId: string
}

interface MeasuredWorker extends Measured {
  readonly loadMs: unknown
  readonly peakMemoryMb: number | null
}

interface MeasuredAttempt extends Measured {
  readonly runMs: unknown
}

interface Figures {
  readonly specHash: string
  readonly presetId: PresetId
  readonly loadMs: number[]
  readonly runMs: number[]
  readonly peakMemoryMb: number[]
}

/** What was measured of the last workers and attempts, by spec. */
export async function readHistory(reader: PrismaClient, limit: number): Promise<readonly WorkerHistory[]> {
  const workers = await reader.$queryRaw<readonly MeasuredWorker[]>(Prisma.sql`
    SELECT w."specHash", w."presetId", w."readyAt" - w."startedAt" AS "loadMs", w."peakMemoryMb"
    FROM (
      SELECT "id", "specHash", "presetId", "readyAt", "startedAt", "peakMemoryMb"
      FROM "Worker" ORDER BY "id" DESC LIMIT ${WORKERS}
    ) AS w
    WHERE w."specHash" <> '' AND (w."readyAt" IS NOT NULL OR w."peakMemoryMb" IS NOT NULL)
    ORDER BY w."id" DESC`)
  const attempts = await reader.$queryRaw<readonly MeasuredAttempt[]>(Prisma.sql`
    SELECT w."specHash", w."presetId", a."finishedAt" - a."runningAt" AS "runMs"
    FROM (
      SELECT "taskId", "workerId", "status", "runningAt", "finishedAt"
      FROM "Attempt" ORDER BY "taskId" DESC, "attempt" DESC LIMIT ${ATTEMPTS}
    ) AS a JOIN "Worker" AS w ON w."id" = a."workerId"
    WHERE a."status" = 'COMPLETED' AND a."runningAt" IS NOT NULL AND w."specHash" <> ''
    ORDER BY a."finishedAt" DESC, a."taskId" DESC`)

  const bySpec = new Map<string, Figures>()
  function figuresOf({ specHash, presetId }: Measured): Figures {
    let figures = bySpec.get(specHash)
    if (figures === undefined) {
      figures = { specHash, presetId: toPresetId(presetId), loadMs: [], runMs: [], peakMemoryMb: [] }
      bySpec.set(specHash, figures)
    }
    return figures
  }
  function add(list: number[], value: unknown): void {
    if (value !== null && list.length < limit) list.push(Number(value))
  }
  for (const worker of workers) {
    const { loadMs, peakMemoryMb } = figuresOf(worker)
    add(loadMs, worker.loadMs)
    add(peakMemoryMb, worker.peakMemoryMb)
  }
  for (const attempt of attempts) add(figuresOf(attempt).runMs, attempt.runMs)
  return [...bySpec.values()]
}
