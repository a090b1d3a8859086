-- CreateTable
CREATE TABLE "Installation" (
    "name" TEXT NOT NULL PRIMARY KEY,
    "createdAt" BIGINT NOT NULL
);

-- CreateTable
CREATE TABLE "Task" (
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
    "status" TEXT NOT NULL,
    "attempt" INTEGER NOT NULL,
    "lastSeq" INTEGER NOT NULL,
    "createdAt" BIGINT NOT NULL,
    "startedAt" BIGINT,
    "runningAt" BIGINT,
    "firstTextAt" BIGINT,
    "finishedAt" BIGINT,
    "cancelRequestedAt" BIGINT,
    "cancelReason" TEXT,
    "stopReason" TEXT,
    "finish" TEXT,
    "gpuIds" TEXT NOT NULL,
    "workerId" TEXT,
    "errorCode" TEXT,
    "errorMessage" TEXT,
    "exitCode" INTEGER
);

-- CreateTable
CREATE TABLE "TaskLabel" (
    "taskId" TEXT NOT NULL,
    "key" TEXT NOT NULL,
    "value" TEXT NOT NULL,
    "createdAt" BIGINT NOT NULL,

    PRIMARY KEY ("taskId", "key"),
    CONSTRAINT "TaskLabel_taskId_fkey" FOREIGN KEY ("taskId") REFERENCES "Task" ("id") ON DELETE CASCADE ON UPDATE CASCADE
);

-- CreateTable
CREATE TABLE "Attempt" (
    "taskId" TEXT NOT NULL,
    "attempt" INTEGER NOT NULL,
    "workerId" TEXT NOT NULL,
    "startedAt" BIGINT NOT NULL,
    "finishedAt" BIGINT,
    "status" TEXT,
    "errorCode" TEXT,
    "errorMessage" TEXT,
    "exitCode" INTEGER,

    PRIMARY KEY ("taskId", "attempt"),
    CONSTRAINT "Attempt_taskId_fkey" FOREIGN KEY ("taskId") REFERENCES "Task" ("id") ON DELETE CASCADE ON UPDATE CASCADE
);

-- CreateTable
CREATE TABLE "EventChunk" (
    "taskId" TEXT NOT NULL,
    "fromSeq" INTEGER NOT NULL,
    "toSeq" INTEGER NOT NULL,
    "format" INTEGER NOT NULL,
    "size" INTEGER NOT NULL,
    "data" TEXT NOT NULL,

    PRIMARY KEY ("taskId", "toSeq"),
    CONSTRAINT "EventChunk_taskId_fkey" FOREIGN KEY ("taskId") REFERENCES "Task" ("id") ON DELETE CASCADE ON UPDATE CASCADE
);

-- CreateTable
CREATE TABLE "Output" (
    "taskId" TEXT NOT NULL,
    "attempt" INTEGER NOT NULL,
    "text" TEXT,
    "result" TEXT,
    "usage" TEXT,

    PRIMARY KEY ("taskId", "attempt"),
    CONSTRAINT "Output_taskId_fkey" FOREIGN KEY ("taskId") REFERENCES "Task" ("id") ON DELETE CASCADE ON UPDATE CASCADE
);

-- CreateTable
CREATE TABLE "Artifact" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "taskId" TEXT NOT NULL,
    "attempt" INTEGER NOT NULL,
    "name" TEXT NOT NULL,
    "mediaType" TEXT NOT NULL,
    "bytes" BIGINT NOT NULL,
    "sha256" TEXT NOT NULL,
    CONSTRAINT "Artifact_taskId_fkey" FOREIGN KEY ("taskId") REFERENCES "Task" ("id") ON DELETE CASCADE ON UPDATE CASCADE
);

-- CreateTable
CREATE TABLE "Worker" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "name" TEXT NOT NULL,
    "presetId" TEXT NOT NULL,
    "mode" TEXT NOT NULL,
    "status" TEXT NOT NULL,
    "containerId" TEXT,
    "imageDigest" TEXT,
    "gpuIds" TEXT NOT NULL,
    "startedAt" BIGINT NOT NULL,
    "readyAt" BIGINT,
    "exitedAt" BIGINT,
    "tasksServed" INTEGER NOT NULL,
    "stdoutCursor" TEXT NOT NULL,
    "stderrCursor" TEXT NOT NULL,
    "exit" TEXT
);

-- CreateTable
CREATE TABLE "WorkerLogChunk" (
    "workerId" TEXT NOT NULL,
    "fromSeq" INTEGER NOT NULL,
    "toSeq" INTEGER NOT NULL,
    "data" TEXT NOT NULL,

    PRIMARY KEY ("workerId", "toSeq"),
    CONSTRAINT "WorkerLogChunk_workerId_fkey" FOREIGN KEY ("workerId") REFERENCES "Worker" ("id") ON DELETE CASCADE ON UPDATE CASCADE
);

-- CreateIndex
CREATE INDEX "Task_createdAt_id_idx" ON "Task"("createdAt", "id");

-- CreateIndex
CREATE INDEX "Task_status_createdAt_id_idx" ON "Task"("status", "createdAt", "id");

-- CreateIndex
CREATE INDEX "Task_presetId_createdAt_id_idx" ON "Task"("presetId", "createdAt", "id");

-- CreateIndex
CREATE INDEX "Task_presetId_status_createdAt_id_idx" ON "Task"("presetId", "status", "createdAt", "id");

-- CreateIndex
CREATE UNIQUE INDEX "Task_owner_idempotencyKey_key" ON "Task"("owner", "idempotencyKey");

-- CreateIndex
CREATE INDEX "TaskLabel_key_value_createdAt_taskId_idx" ON "TaskLabel"("key", "value", "createdAt", "taskId");

-- CreateIndex
CREATE INDEX "Artifact_taskId_attempt_idx" ON "Artifact"("taskId", "attempt");

-- CreateIndex
CREATE INDEX "Worker_status_startedAt_idx" ON "Worker"("status", "startedAt");
