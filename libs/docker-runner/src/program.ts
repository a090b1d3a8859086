import { posix } from 'node:path'
import { type ContainerInfo, isRecord } from './container-info.ts'
import { type Engine, EngineError } from './engine.ts'

/** The bits of a file's mode as the engine tells it. */
const DIRECTORY = 0x8000_0000
const EXECUTABLE = 0o111

const DEFAULT_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'
const MAX_KNOWN = 1_000

/** Tells whether a container's program is there. */
export interface ProgramCheck {
  /** What is wrong with the program of a created container; `null`: nothing that can be seen. */
  problemOf(container: ContainerInfo, mounts: string): Promise<string | null>
}

/**
 * The container's first process is the engine's init, which starts in any case: a missing program would show only later, as a worker that
 * exits with 127. So it is looked for before the start, once per image and program.
 */
export function createProgramCheck(engine: Engine): ProgramCheck {
  const known = new Set<string>()

  async function stat(container: string, path: string): Promise<{ mode: number; link: string } | null> {
    try {
      const headers = await engine.headers(`/containers/${container}/archive`, { query: { path } })
      const told: unknown = JSON.parse(
        Buffer.from(String(headers['x-docker-container-path-stat']), 'base64').toString(),
      )
      if (!isRecord(told) || typeof told['mode'] !== 'number') return null
      return { mode: told['mode'], link: typeof told['linkTarget'] === 'string' ? told['linkTarget'] : '' }
    } catch (error) {
      if (error instanceof EngineError && error.status === 404) return null
      throw error
    }
  }

  return {
    async problemOf(container, mounts) {
      const { path: program, workingDir } = container
      const search = container.env.find((entry) => entry.startsWith('PATH='))?.slice(5) ?? DEFAULT_PATH
      const key = JSON.stringify([container.image, program, workingDir, search, mounts])
      if (known.has(key)) return null

      const places = program.includes('/') ? [''] : search.split(':')
      let problem = `the image has no program ${program}`
      for (const place of places) {
        const path = posix.resolve('/', workingDir, place, program)
        const file = await stat(container.id, path)
        const target = file && file.link !== '' ? await stat(container.id, file.link) : file
        if (!target) continue
        if ((target.mode & DIRECTORY) === 0 && (target.mode & EXECUTABLE) !== 0) {
          if (known.size >= MAX_KNOWN) known.clear()
          known.add(key)
          return null
        }
        problem = `${path} is not an executable file`
      }
      return problem
    },
  }
}
