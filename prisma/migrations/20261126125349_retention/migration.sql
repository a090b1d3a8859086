-- AlterTable
ALTER TABLE "Installation" ADD COLUMN "artifactBytes" BIGINT NOT NULL DEFAULT 0;
UPDATE "Installation" SET "artifactBytes" = (SELECT COALESCE(SUM("bytes"), 0) FROM "Artifact");

-- CreateIndex
CREATE INDEX "Task_finishedAt_id_idx" ON "Task"("finishedAt", "id");

-- CreateIndex
CREATE INDEX "Worker_exitedAt_id_idx" ON "Worker"("exitedAt", "id");
