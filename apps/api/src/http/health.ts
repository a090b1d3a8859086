import type { FastifyInstance } from 'fastify'

/** How one neighbour or part is. */
export interface HealthCheck {
  readonly ok: boolean
  /** For a person. */
  readonly detail: string
}

export interface Health {
  /** Requests are answered and tasks are taken; where a check is not ok, a task may have to wait. */
  readonly ready: boolean
  readonly checks: Readonly<Record<string, HealthCheck>>
}

/** Serves `/healthz`, whether the process answers at all, and `/readyz`, whether it takes work (200) or not (503), and how its parts are. */
export function serveHealth(app: FastifyInstance, health: () => Promise<Health>): void {
  app.get('/healthz', () => ({ status: 'alive' }))
  app.get('/readyz', async (_request, reply) => {
    const { ready, checks } = await health()
    return reply.code(ready ? 200 : 503).send({ status: ready ? 'ready' : 'not ready', checks })
  })
}
