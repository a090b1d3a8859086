import type {
  DryRun,
  FailureCause,
  FailureClass,
  GpuNeed,
  PrivacyClass,
  Role,
  SessionOptions,
} from '@gpu-service/tasks'

// Where the domain has other words for the values than the schema.
export type { FailureCause, FailureClass, PrivacyClass as Privacy, Role } from '@gpu-service/tasks'
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
  FailureCause: {
    OUT_OF_MEMORY: 'out_of_memory',
    GPU_OUT_OF_MEMORY: 'gpu_out_of_memory',
    GPU_BROKEN: 'gpu_broken',
    GPU_LOST: 'gpu_lost',
    GPU_UNAVAILABLE: 'gpu_unavailable',
    IMAGE_MISSING: 'image_missing',
    COMMAND_MISSING: 'command_missing',
    SECRET_UNAVAILABLE: 'secret_unavailable',
    ENGINE_REFUSED: 'engine_refused',
    DISK_FULL: 'disk_full',
    CONFINED: 'confined',
    DEPENDENCY_MISSING: 'dependency_missing',
    FILE_MISSING: 'file_missing',
    CRASHED: 'crashed',
    KILLED: 'killed',
    ENGINE_STOPPED: 'engine_stopped',
    EXITED: 'exited',
    NO_FINISH: 'no_finish',
    REPORTED: 'reported',
    BAD_INPUT: 'bad_input',
    OUTPUT_LOST: 'output_lost',
    LOST: 'lost',
    GIVEN_UP: 'given_up',
    UNACKNOWLEDGED: 'unacknowledged',
    START_TIMEOUT: 'start_timeout',
    RUN_TIMEOUT: 'run_timeout',
    SILENCE_TIMEOUT: 'silence_timeout',
    OUTPUT_LIMIT: 'output_limit',
  } as const satisfies Record<Uppercase<FailureCause>, FailureCause>,
  Privacy: {
    FULL: 'full',
    HASHED: 'hashed',
    EPHEMERAL: 'ephemeral',
  } as const satisfies Record<Uppercase<PrivacyClass>, PrivacyClass>,
  Role: {
    READ: 'read',
    SUBMIT: 'submit',
    OPERATE: 'operate',
    ADMIN: 'admin',
  } as const satisfies Record<Uppercase<Role>, Role>,
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
