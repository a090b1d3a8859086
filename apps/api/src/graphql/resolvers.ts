import { audited } from './audited.ts'
import { AuditEntry, auditQueries, AuditVerification } from './audit.ts'
import { enums } from './enums.ts'
import type { Resolvers } from './generated/resolvers.ts'
import { Gpu, gpuMutations, GpuProcess, gpuQueries, gpuSubscriptions } from './gpu.ts'
import { Preset, presetMutations, presetQueries } from './preset.ts'
import { scalars } from './scalars.ts'
import { Service, serviceQueries } from './service.ts'
import { taskEventTypes } from './task-event.ts'
import { submissionQueries, taskMutations } from './task-mutations.ts'
import {
  FailureEvidence,
  StartEstimate,
  Task,
  TaskConnection,
  taskQueries,
  taskSubscriptions,
} from './task.ts'
import { apiKey, viewerMutations, viewerQueries } from './viewer.ts'
import { Worker, workerMutations, workerQueries, workerSubscriptions } from './worker.ts'

export const resolvers = {
  ...scalars,
  ...enums,
  Query: {
    ...serviceQueries,
    ...presetQueries,
    ...taskQueries,
    ...submissionQueries,
    ...gpuQueries,
    ...workerQueries,
    ...viewerQueries,
    ...auditQueries,
  },
  Mutation: audited({
    ...taskMutations,
    ...workerMutations,
    ...gpuMutations,
    ...presetMutations,
    ...viewerMutations,
  }),
  Subscription: { ...taskSubscriptions, ...gpuSubscriptions, ...workerSubscriptions },
  Service,
  Preset,
  Task,
  FailureEvidence,
  TaskConnection,
  StartEstimate,
  ...taskEventTypes,
  ApiKey: apiKey,
  AuditEntry,
  AuditVerification,
  Gpu,
  GpuProcess,
  Worker,
} satisfies Resolvers
