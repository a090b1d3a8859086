import type { Transaction } from './connection.ts'
import { Prisma } from './generated/client.ts'

/** Keeps the sum of what all artifacts and uploads hold, with the rows that change it. */
export async function countArtifactBytes({ execute }: Transaction, bytes: number): Promise<void> {
  if (bytes === 0) return
  await execute(Prisma.sql`UPDATE "Installation" SET "artifactBytes" = "artifactBytes" + ${bytes}`)
}
