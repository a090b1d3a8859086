export { describeWorkerRunner } from './runner-contract.ts'
export type { RunnerHarness, RunnerRig } from './runner-stage.ts'
export {
  type ReadOptions,
  type ReadOutput,
  readOutput,
  type ScriptOptions,
  scriptOrder,
} from './worker-script.ts'
