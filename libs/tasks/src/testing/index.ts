export { describeWorkerRunner, type RunnerHarness, type RunnerRig } from './runner-contract.ts'
export {
  type ReadOptions,
  type ReadOutput,
  readOutput,
  type ScriptOptions,
  scriptOrder,
} from './worker-script.ts'
