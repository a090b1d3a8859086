export { EXAMPLE_SESSION, EXAMPLE_SPEC } from './example-spec.ts'
export { describeWorkerRunner } from './runner-contract.ts'
export type { RunnerHarness, RunnerRig } from './runner-stage.ts'
export {
  type ReadOptions,
  type ReadOutput,
  readOutput,
  type ScriptOptions,
  scriptOrder,
} from './worker-script.ts'
