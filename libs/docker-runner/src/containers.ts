import type { ListedWorker, Logger, WorkerName } from '@gpu-service/tasks'
import { LABELS } from './container.ts'
import { type ContainerInfo, stateOf } from './container-info.ts'
import type { Engine } from './engine.ts'

/** Looks at so many containers at once. */
const INSPECTIONS = 8

/** The containers of one installation's workers: found also where somebody has renamed them, and never taken for those of others. */
export interface Containers {
  /** `null`: the worker has none. */
  find(name: WorkerName, signal?: AbortSignal): Promise<ContainerInfo | null>
  list(): Promise<ListedWorker[]>
}

export function createContainers(engine: Engine, installation: string, logger: Logger): Containers {
  const ours = `${LABELS.installation}=${installation}`
  const prefix = `gpu-${installation}-`
  let othersAreNamed = false

  /** Once: workers of another installation may be somebody's, or what a removed data folder has left. */
  async function nameOthers(): Promise<void> {
    if (othersAreNamed) return
    const listed = await engine.list(LABELS.installation)
    othersAreNamed = true
    const others = listed.filter((each) => each.installation !== installation)
    for (const other of new Set(others.map((each) => each.installation))) {
      const containers = others.filter((each) => each.installation === other)
      logger.warn(
        { containers: containers.map(({ name }) => name) },
        `workers of another installation are on this engine; if nobody needs them: docker rm -f $(docker ps -aq --filter label=${LABELS.installation}=${other})`,
      )
    }
  }

  return {
    async find(name, signal) {
      const named = await engine.inspect(name, signal)
      if (named?.worker?.installation === installation && named.worker.name === name) return named
      const [renamed] = await engine.list(ours, `${LABELS.worker}=${name.slice(prefix.length)}`)
      return renamed ? engine.inspect(renamed.id, signal) : null
    },

    async list() {
      await nameOthers()
      const listed = await engine.list(ours)
      const workers: ListedWorker[] = []
      for (let at = 0; at < listed.length; at += INSPECTIONS) {
        const some = listed.slice(at, at + INSPECTIONS)
        const infos = await Promise.all(some.map(({ id }) => engine.inspect(id)))
        // One that is gone by now is left out; the name is the one that we gave.
        for (const info of infos)
          if (info?.worker) workers.push({ name: info.worker.name as WorkerName, state: stateOf(info) })
      }
      return workers
    },
  }
}
