-- CreateTable
CREATE TABLE "GpuDrain" (
    "gpuId" TEXT NOT NULL PRIMARY KEY,
    "at" BIGINT NOT NULL,
    "reason" TEXT
);

-- RedefineTables
PRAGMA defer_foreign_keys=ON;
PRAGMA foreign_keys=OFF;
CREATE TABLE "new_Attempt" (
    "taskId" TEXT NOT NULL,
    "attempt" INTEGER NOT NULL,
    "workerId" TEXT NOT NULL,
    "gpuIds" TEXT NOT NULL,
    "warm" INTEGER NOT NULL,
    "startedAt" BIGINT NOT NULL,
    "runningAt" BIGINT,
    "finishedAt" BIGINT,
    "status" TEXT,
    "errorCode" TEXT,
    "errorMessage" TEXT,
    "failureClass" TEXT,
    "exitCode" INTEGER,

    PRIMARY KEY ("taskId", "attempt"),
    CONSTRAINT "Attempt_taskId_fkey" FOREIGN KEY ("taskId") REFERENCES "Task" ("id") ON DELETE CASCADE ON UPDATE CASCADE
);
-- A task had one attempt at most, so what its row says is of that one.
INSERT INTO "new_Attempt" ("taskId", "attempt", "workerId", "gpuIds", "warm", "startedAt", "runningAt", "finishedAt", "status", "errorCode", "errorMessage", "exitCode")
SELECT a."taskId", a."attempt", a."workerId", t."gpuIds", 0, a."startedAt", t."runningAt", a."finishedAt", a."status", a."errorCode", a."errorMessage", a."exitCode"
FROM "Attempt" AS a JOIN "Task" AS t ON t."id" = a."taskId";
DROP TABLE "Attempt";
ALTER TABLE "new_Attempt" RENAME TO "Attempt";
CREATE TABLE "new_Task" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "owner" TEXT NOT NULL,
    "presetId" TEXT NOT NULL,
    "spec" TEXT NOT NULL,
    "input" TEXT NOT NULL,
    "labels" TEXT NOT NULL,
    "priority" INTEGER NOT NULL,
    "idempotencyKey" TEXT,
    "requestHash" TEXT NOT NULL,
    "affinity" TEXT,
    "askedTimeoutMs" BIGINT,
    "askedGpuIds" TEXT,
    "retryOf" TEXT,
    "status" TEXT NOT NULL,
    "attempt" INTEGER NOT NULL,
    "lastSeq" INTEGER NOT NULL,
    "createdAt" BIGINT NOT NULL,
    "queuedAt" BIGINT NOT NULL,
    "retryAt" BIGINT,
    "startedAt" BIGINT,
    "runningAt" BIGINT,
    "firstTextAt" BIGINT,
    "finishedAt" BIGINT,
    "cancelRequestedAt" BIGINT,
    "cancelReason" TEXT,
    "stopReason" TEXT,
    "finish" TEXT,
    "stoppedAt" BIGINT,
    "gpuFreeAt" BIGINT,
    "killed" INTEGER NOT NULL,
    "gpuIds" TEXT NOT NULL,
    "workerId" TEXT,
    "errorCode" TEXT,
    "errorMessage" TEXT,
    "exitCode" INTEGER
);
INSERT INTO "new_Task" ("affinity", "attempt", "cancelReason", "cancelRequestedAt", "createdAt", "errorCode", "errorMessage", "exitCode", "finish", "finishedAt", "firstTextAt", "gpuIds", "id", "idempotencyKey", "input", "labels", "lastSeq", "owner", "presetId", "priority", "requestHash", "runningAt", "spec", "startedAt", "status", "stopReason", "workerId", "queuedAt", "killed") SELECT "affinity", "attempt", "cancelReason", "cancelRequestedAt", "createdAt", "errorCode", "errorMessage", "exitCode", "finish", "finishedAt", "firstTextAt", "gpuIds", "id", "idempotencyKey", "input", "labels", "lastSeq", "owner", "presetId", "priority", "requestHash", "runningAt", "spec", "startedAt", "status", "stopReason", "workerId", "createdAt", 0 FROM "Task";
DROP TABLE "Task";
ALTER TABLE "new_Task" RENAME TO "Task";
CREATE INDEX "Task_createdAt_id_idx" ON "Task"("createdAt", "id");
CREATE INDEX "Task_status_createdAt_id_idx" ON "Task"("status", "createdAt", "id");
CREATE INDEX "Task_presetId_createdAt_id_idx" ON "Task"("presetId", "createdAt", "id");
CREATE INDEX "Task_presetId_status_createdAt_id_idx" ON "Task"("presetId", "status", "createdAt", "id");
CREATE UNIQUE INDEX "Task_owner_idempotencyKey_key" ON "Task"("owner", "idempotencyKey");
CREATE TABLE "new_Worker" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "name" TEXT NOT NULL,
    "presetId" TEXT NOT NULL,
    "mode" TEXT NOT NULL,
    "status" TEXT NOT NULL,
    "spec" TEXT NOT NULL,
    "specHash" TEXT NOT NULL,
    "owner" TEXT,
    "containerId" TEXT,
    "imageDigest" TEXT,
    "gpuIds" TEXT NOT NULL,
    "claimMemoryMb" INTEGER,
    "peakMemoryMb" INTEGER,
    "startedAt" BIGINT NOT NULL,
    "readyAt" BIGINT,
    "exitedAt" BIGINT,
    "tasksServed" INTEGER NOT NULL,
    "stdoutCursor" TEXT NOT NULL,
    "stderrCursor" TEXT NOT NULL,
    "eventSeq" INTEGER,
    "exit" TEXT,
    "endReason" TEXT
);
INSERT INTO "new_Worker" ("containerId", "eventSeq", "exit", "exitedAt", "gpuIds", "id", "imageDigest", "mode", "name", "presetId", "readyAt", "startedAt", "status", "stderrCursor", "stdoutCursor", "tasksServed", "spec", "specHash") SELECT "containerId", "eventSeq", "exit", "exitedAt", "gpuIds", "id", "imageDigest", "mode", "name", "presetId", "readyAt", "startedAt", "status", "stderrCursor", "stdoutCursor", "tasksServed", '', '' FROM "Worker";
-- What a worker that is still there was started with: the spec of its task.
UPDATE "new_Worker" SET "spec" = v."spec"
FROM (
  SELECT a."workerId", t."spec" FROM "new_Worker" AS w JOIN "Attempt" AS a ON a."workerId" = w."id" JOIN "Task" AS t ON t."id" = a."taskId"
  WHERE w."status" <> 'EXITED'
) AS v
WHERE v."workerId" = "new_Worker"."id";
DROP TABLE "Worker";
ALTER TABLE "new_Worker" RENAME TO "Worker";
CREATE INDEX "Worker_status_startedAt_idx" ON "Worker"("status", "startedAt");
PRAGMA foreign_keys=ON;
PRAGMA defer_foreign_keys=OFF;
