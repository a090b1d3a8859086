export { createProcessRunner, type ProcessRunnerOptions } from './process-runner.ts'
export {
  createWorkerPackages,
  readWorkerPackage,
  type WorkerPackage,
  type WorkerPackages,
} from './worker-packages.ts'
