export { copyDatabase, type DatabaseCopy } from './copy-database.ts'
export { type AuditFile, openAuditFile } from './audit-file.ts'
export { openTaskStore, type TaskStoreOptions } from './open-task-store.ts'
export { isOutage, StoreError, type StoreErrorCode } from './store-error.ts'
