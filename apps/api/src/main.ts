import { commandProcess, serviceProcess } from './service-process.ts'

const [command, ...args] = process.argv.slice(2)
if (command === undefined) serviceProcess()
else commandProcess(command, args)
