import { describe } from 'vitest'
import { describeLife } from './life-contract.ts'
import { describeOutput } from './output-contract.ts'
import { type RunnerHarness, setStage } from './runner-stage.ts'
import { describeSurroundings } from './surroundings-contract.ts'

/** What every runner promises, told by workers that are small shell scripts. Call it at the top of a test file. */
export function describeWorkerRunner(title: string, harness: RunnerHarness): void {
  describe(title, { timeout: 60_000 }, () => {
    const stage = setStage(harness)
    describeLife(stage)
    describeOutput(stage)
    describeSurroundings(stage, harness.modelsPath)
  })
}
