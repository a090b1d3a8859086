import type { DryRun, FailureClass, GpuNeed, SessionOptions } from '@gpu-service/tasks'

// Where the domain has other words for the values than the schema.
export type { FailureClass } from '@gpu-service/tasks'
export type GpuShare = GpuNeed['share']
export type SessionIsolation = SessionOptions['isolation']
export type DryRunAction = DryRun['action']

/** The domain's value of each of the schema's. */
export const enums = {
  FailureClass: {
    OUT_OF_MEMORY: 'out_of_memory',
    GPU_LOST: 'gpu_lost',
    ENGINE: 'engine',
    WORKER_FAILED: 'worker_failed',
    SESSION_DIED: 'session_died',
    UNACKNOWLEDGED: 'unacknowledged',
  } as const satisfies Record<Uppercase<FailureClass>, FailureClass>,
  GpuShare: { EXCLUSIVE: 'exclusive', SHARED: 'shared' } as const satisfies Record<
    Uppercase<GpuShare>,
    GpuShare
  >,
  SessionIsolation: { SHARED: 'shared', OWNER: 'owner' } as const satisfies Record<
    Uppercase<SessionIsolation>,
    SessionIsolation
  >,
  DryRunAction: { START_WORKER: 'start', USE_SESSION: 'assign', WAIT: 'wait' } as const satisfies Record<
    string,
    DryRunAction
  >,
}
