export { openTaskStore, type TaskStoreOptions } from './open-task-store.ts'
export { StoreError, type StoreErrorCode } from './store-error.ts'
