-- AlterTable
ALTER TABLE "Installation" ADD COLUMN "secret" TEXT;

-- CreateTable
CREATE TABLE "ApiKey" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "name" TEXT NOT NULL,
    "owner" TEXT NOT NULL,
    "role" TEXT NOT NULL,
    "presets" TEXT,
    "hash" TEXT NOT NULL,
    "createdAt" BIGINT NOT NULL,
    "createdBy" TEXT NOT NULL,
    "expiresAt" BIGINT,
    "revokedAt" BIGINT,
    "lastUsedAt" BIGINT,
    "lastUsedFrom" TEXT
);

-- AlterTable
ALTER TABLE "Task" ADD COLUMN "account" TEXT NOT NULL DEFAULT '';
UPDATE "Task" SET "account" = "owner";

-- CreateIndex
CREATE INDEX "Task_account_createdAt_id_idx" ON "Task"("account", "createdAt", "id");

-- CreateIndex
CREATE INDEX "Task_owner_createdAt_id_idx" ON "Task"("owner", "createdAt", "id");
