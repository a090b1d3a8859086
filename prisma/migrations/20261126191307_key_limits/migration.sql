ALTER TABLE "Task" ADD COLUMN "keyId" TEXT;
ALTER TABLE "ApiKey" ADD COLUMN "limits" TEXT NOT NULL DEFAULT '{}';

CREATE TABLE "KeyCharge" (
    "keyId" TEXT NOT NULL,
    "dayStart" BIGINT NOT NULL,
    "gpuMs" BIGINT NOT NULL,

    PRIMARY KEY ("dayStart", "keyId")
);
