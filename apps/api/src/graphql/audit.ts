import { parseAuditHead } from '@gpu-service/tasks'
import { checkStretch } from './arguments.ts'
import { parseAuditFilter } from './audit-filter.ts'
import { refusal } from './errors.ts'
import type {
  AuditEntryResolvers,
  AuditVerificationResolvers,
  QueryResolvers,
} from './generated/resolvers.ts'

const MAX_PAGE = 200

export const auditQueries = {
  async auditLog(_parent, { filter, first, after }, { store }) {
    checkStretch({ first }, MAX_PAGE)
    const before = after == null ? null : seqOf(after)
    const page = await store.auditLog({ filter: parseAuditFilter(filter), first, before })
    return {
      edges: page.entries.map((node) => ({ cursor: String(node.seq), node })),
      pageInfo: {
        hasNextPage: page.hasNextPage,
        endCursor: page.entries.length === 0 ? null : String(page.entries.at(-1)?.seq),
      },
    }
  },
  auditVerification(_parent, { after, first, head }, { store, signal }) {
    checkStretch({ first: first ?? 1, after }, Number.MAX_SAFE_INTEGER)
    const kept = head == null ? null : parseAuditHead(head)
    if (head != null && kept === null)
      throw refusal(
        'BAD_USER_INPUT',
        'head must be of the form <seq>:<hash>, as auditVerification gives both.',
      )
    return store.verifyAudit({ after, first: first ?? null, kept }, signal)
  },
} satisfies QueryResolvers

export const AuditEntry = {
  targetKind: ({ target }) => target.kind,
  targetId: ({ target }) => target.id,
} satisfies AuditEntryResolvers

export const AuditVerification = {
  ok: ({ fault }) => fault === null,
} satisfies AuditVerificationResolvers

/** A text that is no cursor of ours ends the list. */
function seqOf(cursor: string): number {
  return /^\d{1,15}$/.test(cursor) ? Number(cursor) : 0
}
