-- AlterTable
ALTER TABLE "Task" ADD COLUMN "files" TEXT;

-- CreateTable
CREATE TABLE "Upload" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "owner" TEXT NOT NULL,
    "name" TEXT NOT NULL,
    "mediaType" TEXT NOT NULL,
    "bytes" BIGINT NOT NULL,
    "sha256" TEXT NOT NULL,
    "createdAt" BIGINT NOT NULL,
    "expiresAt" BIGINT NOT NULL,
    "used" INTEGER NOT NULL
);

-- CreateTable
CREATE TABLE "TaskUpload" (
    "taskId" TEXT NOT NULL,
    "uploadId" TEXT NOT NULL,

    PRIMARY KEY ("taskId", "uploadId"),
    CONSTRAINT "TaskUpload_taskId_fkey" FOREIGN KEY ("taskId") REFERENCES "Task" ("id") ON DELETE CASCADE ON UPDATE CASCADE,
    CONSTRAINT "TaskUpload_uploadId_fkey" FOREIGN KEY ("uploadId") REFERENCES "Upload" ("id") ON DELETE RESTRICT ON UPDATE CASCADE
);

-- CreateIndex
CREATE INDEX "Upload_owner_used_idx" ON "Upload"("owner", "used");

-- CreateIndex
CREATE INDEX "Upload_used_expiresAt_id_idx" ON "Upload"("used", "expiresAt", "id");

-- CreateIndex
CREATE INDEX "TaskUpload_uploadId_taskId_idx" ON "TaskUpload"("uploadId", "taskId");
