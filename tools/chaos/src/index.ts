export { type ChaosOptions, runChaos } from './chaos.ts'
