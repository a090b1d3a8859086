import type { Dispatcher, GpuInventory, PresetCatalog, Principal, TaskStore } from '@gpu-service/tasks'
import type { KeyRing } from '../access/key-ring.ts'

/** What this process is and runs with, as `Query.service` tells it. */
export interface ServiceInfo {
  readonly version: string
  /** Of this run of the process. */
  readonly instanceId: string
  /** Milliseconds since 1970. */
  readonly startedAt: number
  readonly runner: string
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
}
