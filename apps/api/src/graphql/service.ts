import type { QueryResolvers } from './generated/resolvers.ts'

export const serviceQueries = {
  service: (_parent, _args, { service, store, gpus }) => ({
    ...service,
    database: store.kind,
    gpuSource: gpus.source,
  }),
} satisfies QueryResolvers
