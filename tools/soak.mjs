// npm run soak: a steady load for as long as you like, and what the service holds meanwhile: memory, files, containers, the database.
//   npm run soak -- [--minutes N] [--seed S] [--runner docker|process]
import { runTool } from './chaos-tool.mjs'

await runTool({ minutes: '60' }, ({ runSoak }, options) => runSoak(options))
