import type { Actor, Dispatcher, GpuInventory, PresetCatalog, Principal, TaskStore } from '@gpu-service/tasks'
import type { KeyRing } from '../access/key-ring.ts'
import type { Meter, Meters } from '../access/meters.ts'
import type { SigningKey } from '../export/signing-key.ts'

/** What this process is and runs with, as `Query.service` tells it. */
export interface ServiceInfo {
  readonly version: string
  /** Of this run of the process. */
  readonly instanceId: string
  /** Milliseconds since 1970. */
  readonly startedAt: number
  readonly runner: string
  readonly signingKey: Pick<SigningKey, 'publicKey' | 'fingerprint'>
}

/** What resolvers work with. */
export interface Context {
  readonly dispatcher: Dispatcher
  readonly store: TaskStore
  readonly presets: PresetCatalog
  readonly gpus: GpuInventory
  readonly service: ServiceInfo
  readonly keys: KeyRing
  /** On whose behalf the operation runs. */
  readonly principal: Principal
  /** What it may still ask for. */
  readonly meter: Meter
  readonly meters: Meters
  /** Who asks, as the audit log keeps it. */
  readonly actor: Actor
  /** Fires when nobody waits for the answer any more. */
  readonly signal: AbortSignal
}
