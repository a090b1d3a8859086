export * from './access.ts'
export { dayStartOf, type Charge } from './charge.ts'
export type * from './artifact-files.ts'
export { problemOfFileName } from './artifact-label.ts'
export * from './audit.ts'
export {
  AUDIT_REMOVED,
  AUDIT_START,
  type AuditCheck,
  auditDetails,
  auditHash,
  checkAudit,
  parseAuditHead,
} from './audit-chain.ts'
export type * from './clock.ts'
export type * from './disk-room.ts'
export type * from './dispatcher.ts'
export { openDispatcher } from './dispatch/open-dispatcher.ts'
export * from './environment.ts'
export type * from './event.ts'
export * from './evidence.ts'
export { FeedError, type FeedOptions } from './feed.ts'
export type * from './gpu.ts'
export type { RetentionLimits } from './housekeeping/retention.ts'
export * from './ids.ts'
export * from './json.ts'
export * from './logger.ts'
export * from './output.ts'
export * from './planner/index.ts'
export type * from './presets.ts'
export * from './privacy.ts'
export * from './relaxations.ts'
export * from './runner.ts'
export * from './secrets.ts'
export * from './spec.ts'
export { specHashOf } from './spec-hash.ts'
export type { EventBatch } from './tail.ts'
export * from './store.ts'
export * from './task.ts'
export type * from './upload.ts'
export * from './worker.ts'
