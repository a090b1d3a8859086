-- AlterTable
ALTER TABLE "Worker" ADD COLUMN "eventSeq" INTEGER;
