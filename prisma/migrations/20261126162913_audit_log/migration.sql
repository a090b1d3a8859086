-- CreateTable
CREATE TABLE "AuditEntry" (
    "seq" INTEGER NOT NULL PRIMARY KEY,
    "at" BIGINT NOT NULL,
    "actorKind" TEXT NOT NULL,
    "actorId" TEXT,
    "actorName" TEXT NOT NULL,
    "actorAddress" TEXT,
    "action" TEXT NOT NULL,
    "targetKind" TEXT NOT NULL,
    "targetId" TEXT,
    "result" TEXT NOT NULL,
    "status" TEXT,
    "reason" TEXT,
    "details" TEXT NOT NULL,
    "hash" TEXT NOT NULL
);

-- AlterTable
ALTER TABLE "Installation" ADD COLUMN "auditAnchorSeq" INTEGER NOT NULL DEFAULT 0;
ALTER TABLE "Installation" ADD COLUMN "auditAnchorHash" TEXT NOT NULL DEFAULT '0000000000000000000000000000000000000000000000000000000000000000';
