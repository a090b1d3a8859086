import type { FastifyInstance } from 'fastify'

/** How one neighbour or part is. */
export interface HealthCheck {
  readonly ok: boolean
  /** For a person. */
  readonly detail: string
}

export interface Health {
  /** Tasks that are submitted now would be worked on. */
  readonly ready: boolean
  readonly checks: Readonly<Record<string, HealthCheck>>
}

/** Serves `/healthz`, whether the process answers at all, and `/readyz`, whether it can do its work (200) or not (503), and why. */
export function serveHealth(app: FastifyInstance, health: () => Health): void {
  app.get('/healthz', () => ({ status: 'alive' }))
  app.get('/readyz', (_request, reply) => {
    const { ready, checks } = health()
    return reply.code(ready ? 200 : 503).send({ status: ready ? 'ready' : 'not ready', checks })
  })
}
