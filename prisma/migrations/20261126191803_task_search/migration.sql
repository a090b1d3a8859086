-- AlterTable
ALTER TABLE "Task" ADD COLUMN "place" BIGINT;
-- As libs/task-store/src/place.ts has it. Before its index goes, which gives this order.
UPDATE "Task" SET "place" = p."place"
FROM (
  SELECT "id", "createdAt" * 2097152 + ROW_NUMBER() OVER (PARTITION BY "createdAt" ORDER BY "id") - 1 AS "place" FROM "Task"
) AS p
WHERE p."id" = "Task"."id";

-- DropIndex
DROP INDEX "Task_owner_createdAt_id_idx";

-- DropIndex
DROP INDEX "Task_account_createdAt_id_idx";

-- DropIndex
DROP INDEX "Task_presetId_status_createdAt_id_idx";

-- DropIndex
DROP INDEX "Task_presetId_createdAt_id_idx";

-- DropIndex
DROP INDEX "Task_status_createdAt_id_idx";

-- DropIndex
DROP INDEX "Task_createdAt_id_idx";

-- DropTable
DROP TABLE "TaskLabel";

-- CreateIndex
CREATE UNIQUE INDEX "Task_place_key" ON "Task"("place");

-- CreateIndex
CREATE INDEX "Task_status_idx" ON "Task"("status");

-- The rows are made by the program (libs/task-store/src/search-index.ts), those of tasks that are there when it is started next. It keeps which
-- words a task has, and neither their texts (content, columnsize) nor where in it they stand (detail).
CREATE VIRTUAL TABLE "TaskSearch" USING fts5("words", content='', contentless_delete=1, detail='none', tokenize="ascii tokenchars '='");
