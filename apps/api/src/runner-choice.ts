import { existsSync, readFileSync, writeFileSync } from 'node:fs'
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
  /** Where Docker's socket is by default. */
  readonly dockerSocket?: string
}

/**
 * Docker where a socket or DOCKER_HOST is there, else processes; decided once per installation, because one that used Docker must never
 * fall back to processes while its engine is away: its tasks wait instead.
 */
export function chooseRunner({
  setting,
  dataDir,
  dockerHost,
  dockerSocket = '/var/run/docker.sock',
}: RunnerChoiceOptions): RunnerChoice {
  const memory = join(dataDir, 'runner')
  if (setting !== 'auto') {
    remember(memory, setting)
    return { kind: setting, why: `RUNNER=${setting}` }
  }
  const before = existsSync(memory) ? readFileSync(memory, 'utf8').trim() : ''
  if (before === 'docker') return { kind: 'docker', why: 'as at the first start of this installation' }
  const found =
    dockerHost !== null ? 'DOCKER_HOST is set' : existsSync(dockerSocket) ? `${dockerSocket} is there` : null
  if (found !== null) {
    remember(memory, 'docker')
    return { kind: 'docker', why: found }
  }
  return {
    kind: 'process',
    why: `no ${dockerSocket} and no DOCKER_HOST; workers run unconfined, as local processes`,
  }
}

function remember(memory: string, kind: RunnerChoice['kind']): void {
  writeFileSync(memory, `${kind}\n`, { mode: 0o600 })
}
