import type { QueryResolvers, ServiceResolvers } from './generated/resolvers.ts'

export const serviceQueries = {
  service: (_parent, _args, { service }) => service,
} satisfies QueryResolvers

export const Service = {
  database: (_service, _args, { store }) => store.kind,
  gpuSource: (_service, _args, { gpus }) => gpus.source,
  storage: async (_service, _args, { store, dispatcher }) => ({
    ...(await store.usage()),
    ...dispatcher.housekeeping,
  }),
} satisfies ServiceResolvers
