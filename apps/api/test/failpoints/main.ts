import { serviceProcess } from '../../src/service-process.ts'
import { withFailpoints } from './decorate.ts'

serviceProcess(withFailpoints)
