import { serviceProcess } from './service-process.ts'

serviceProcess()
