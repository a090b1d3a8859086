export { type ChaosOptions, runChaos } from './chaos.ts'
export { type SoakOptions, runSoak } from './soak.ts'
