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

/**
 * Serves `/healthz`, whether the process answers at all, and `/readyz`, whether it takes work (200) or not (503), to everybody; and how its
 * parts are, in words that may name paths and presets, to those who may see them.
 */
export function serveHealth(app: FastifyInstance, health: () => Promise<Health>): void {
  const everybody = { config: { open: true } }
  app.get('/healthz', everybody, () => ({ status: 'alive' }))
  app.get('/readyz', everybody, async ({ caller }, reply) => {
    const { ready, checks } = await health()
    const shown = Object.fromEntries(
      Object.entries(checks).map(([name, { ok, detail }]) => [
        name,
        caller === null ? { ok } : { ok, detail },
      ]),
    )
    return reply.code(ready ? 200 : 503).send({ status: ready ? 'ready' : 'not ready', checks: shown })
  })
}
