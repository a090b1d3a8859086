// npm run chaos: breaks whatever can be broken while tasks run, and checks that every task ends as it must, with every event exactly once.
//   npm run chaos -- [--minutes N] [--seed S] [--runner docker|process]
import { runTool } from './chaos-tool.mjs'

await runTool({ minutes: '5' }, ({ runChaos }, options) => runChaos(options))
