-- AlterTable
ALTER TABLE "Attempt" ADD COLUMN "evidence" TEXT;
