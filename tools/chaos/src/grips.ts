import { setTimeout as delay } from 'node:timers/promises'
import type { Api } from './api.ts'
import type { EngineSite } from './site.ts'

/** A worker that runs, in the hands of somebody who is not the service. Everything rejects where it runs no more. */
export interface Grip {
  readonly workerId: string
  kill(): Promise<void>
  /** Ends it and leaves nothing of it, where that can be done. */
  remove(): Promise<void>
  stop(): Promise<void>
  pause(): Promise<void>
  /** Insists where it is in the way that the engine is away: nobody else would let the worker go on. */
  goOn(): Promise<void>
}

/** In the order of their ids. */
export async function containerGrips({ docker, containers }: EngineSite): Promise<readonly Grip[]> {
  const running = (await containers()).filter(({ state }) => state === 'running')
  return running
    .sort((a, b) => (a.workerId < b.workerId ? -1 : 1))
    .map(({ id, workerId }) => {
      const container = docker.getContainer(id)
      return {
        workerId,
        kill: () => container.kill().then(done),
        remove: () => container.remove({ force: true }).then(done),
        stop: () => container.stop({ t: 1 }).then(done),
        pause: () => container.pause().then(done),
        async goOn() {
          for (;;) {
            try {
              await container.unpause()
              return
            } catch {
              const isPaused = await container.inspect().then(
                ({ State }) => State.Paused,
                (error: unknown) =>
                  !(error instanceof Error && 'statusCode' in error && error.statusCode === 404),
              )
              if (!isPaused) return
              await delay(300)
            }
          }
        },
      }
    })
}

export async function processGrips(api: Api): Promise<readonly Grip[]> {
  const workers = await api.liveWorkers()
  return workers.flatMap(({ id, containerId }) => {
    if (containerId === null) return []
    const send = (signal: NodeJS.Signals) => () =>
      new Promise<void>((resolve) => {
        process.kill(Number(containerId), signal)
        resolve()
      })
    return [
      {
        workerId: id,
        kill: send('SIGKILL'),
        remove: send('SIGKILL'),
        stop: send('SIGTERM'),
        pause: send('SIGSTOP'),
        goOn: send('SIGCONT'),
      },
    ]
  })
}

function done(): void {
  // What the engine answers says nothing more.
}
