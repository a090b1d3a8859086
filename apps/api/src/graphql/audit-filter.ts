import type { AuditFilter } from '@gpu-service/tasks'
import type { AuditFilter as AuditFilterInput } from './generated/resolvers.ts'

export function parseAuditFilter(filter: AuditFilterInput | null | undefined): AuditFilter {
  const { after, before, actorKind, actorId, actorName, action, targetKind, targetId, result } = filter ?? {}
  return {
    ...(after != null && { after }),
    ...(before != null && { before }),
    ...(actorKind != null && { actorKind }),
    ...(actorId != null && { actorId }),
    ...(actorName != null && { actorName }),
    ...(action != null && { action }),
    ...(targetKind != null && { targetKind }),
    ...(targetId != null && { targetId }),
    ...(result != null && { result }),
  }
}
