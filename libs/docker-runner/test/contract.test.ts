import { describeWorkerRunner } from '@gpu-service/tasks/testing'
import { IMAGE, openRig } from './rig.ts'

describeWorkerRunner('the Docker runner', { image: IMAGE, modelsPath: '/models', open: openRig })
