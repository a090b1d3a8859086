export { type GpuInventoryOptions, openGpuInventory } from './gpu-inventory.ts'
export { type GpuSource, type GpusSetting, parseGpusSetting } from './gpus-setting.ts'
