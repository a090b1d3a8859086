-- Who asks for an account's tasks finds them by the search index.
ALTER TABLE "Task" DROP COLUMN "account";
