import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { homedir } from 'node:os'
import { join } from 'node:path'

/** Which runner serves, and why, in a sentence for people. */
export interface RunnerChoice {
  readonly kind: 'docker' | 'process'
  readonly why: string
}

export interface RunnerChoiceOptions {
  readonly setting: 'auto' | 'docker' | 'process'
  readonly dataDir: string
  readonly dockerHost: string | null
  /** Workers of the process before still run: they are found only by the runner that started them. */
  readonly hasWorkers: boolean
  /** Where Docker's socket may be without DOCKER_HOST. */
  readonly dockerSockets?: readonly string[]
}

const DOCKER_SOCKETS = [join(homedir(), '.docker/run/docker.sock'), '/var/run/docker.sock']

/**
 * Docker where a socket or DOCKER_HOST is there, else processes. An installation that has used Docker never falls back to processes while
 * its engine is away: its tasks wait instead. One that has used processes takes Docker once it is there and no worker is left.
 */
export function chooseRunner({
  setting,
  dataDir,
  dockerHost,
  hasWorkers,
  dockerSockets = DOCKER_SOCKETS,
}: RunnerChoiceOptions): RunnerChoice {
  const memory = join(dataDir, 'runner')
  const choice = choose()
  writeFileSync(memory, `${choice.kind}\n`, { mode: 0o600 })
  return choice

  function choose(): RunnerChoice {
    if (setting !== 'auto') return { kind: setting, why: `RUNNER=${setting}` }
    const before = existsSync(memory) ? readFileSync(memory, 'utf8').trim() : ''
    if (before === 'docker') return { kind: 'docker', why: 'as at the start before' }
    if (before === 'process' && hasWorkers) {
      return { kind: 'process', why: 'its workers of before still run as processes' }
    }
    if (dockerHost !== null) return { kind: 'docker', why: 'DOCKER_HOST is set' }
    const socket = dockerSockets.find((path) => existsSync(path))
    if (socket !== undefined) return { kind: 'docker', why: `${socket} is there` }
    const why = 'no Docker socket and no DOCKER_HOST; workers run unconfined, as local processes'
    return { kind: 'process', why }
  }
}
