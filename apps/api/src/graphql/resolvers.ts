import type { Resolvers } from './generated/resolvers.ts'
import { Gpu, gpuQueries, gpuSubscriptions, Worker } from './gpu.ts'
import { Preset, presetMutations, presetQueries } from './preset.ts'
import { scalars } from './scalars.ts'
import { serviceQueries } from './service.ts'
import { taskEventTypes } from './task-event.ts'
import { Task, TaskConnection, taskMutations, taskQueries, taskSubscriptions } from './task.ts'

export const resolvers = {
  ...scalars,
  Query: { ...serviceQueries, ...presetQueries, ...taskQueries, ...gpuQueries },
  Mutation: { ...taskMutations, ...presetMutations },
  Subscription: { ...taskSubscriptions, ...gpuSubscriptions },
  Preset,
  Task,
  TaskConnection,
  ...taskEventTypes,
  Gpu,
  Worker,
} satisfies Resolvers
