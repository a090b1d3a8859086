import { once } from 'node:events'
import type { WorkerOrder } from '@gpu-service/tasks'
import { openRunner } from './rig.ts'

// A service in miniature: starts the worker whose order it is given. The test kills it on the way.
const [dataDir = '', order = ''] = process.argv.slice(2)
const runner = openRunner(dataDir)
process.stdout.write('ready\n')
await once(process.stdin, 'data')
await runner.start(JSON.parse(order) as WorkerOrder)
process.stdout.write('started\n')
