import { readFile } from 'node:fs/promises'
import { once } from 'node:events'
import { request, type IncomingMessage } from 'node:http'
import { text } from 'node:stream/consumers'
import { SESSION_WORKER_IMAGE } from '@gpu-service/test-engine'
import type { PresetSource, SeenWorker } from './service.ts'

/** A preset of the session worker in its version with faults, in a container and as a process alike. */
export function session(more: PresetSource = {}, env: Readonly<Record<string, string>> = {}): PresetSource {
  return {
    docker_image: SESSION_WORKER_IMAGE,
    command: ['python', '/app/faults.py'],
    local: ['python3', 'faults.py'],
    mode: 'session',
    gpus: { count: 0 },
    env_vars: { LOAD_SECONDS: '0.1', ...env },
    retry: { backoff: '0s' },
    ...more,
  }
}

/** The input of a task that goes on until it is stopped. */
export const ENDLESS = { text: 'on and on', tokens: 1_000_000, interval_ms: 10 }

/** What `kill -9` does to the worker's main process. */
export async function killWorker(runner: 'docker' | 'process', { containerId }: SeenWorker): Promise<void> {
  if (containerId === null) throw new Error('the worker has no container yet')
  if (runner === 'docker') await callEngine('POST', `/containers/${containerId}/kill?signal=KILL`)
  else process.kill(-Number(containerId), 'SIGKILL')
}

/** Whether the engine, or the kernel, still has it in any form. */
export async function isThere(runner: 'docker' | 'process', containerId: string): Promise<boolean> {
  if (runner === 'docker') return (await callEngine('GET', `/containers/${containerId}/json`)) !== null
  try {
    return process.kill(Number(containerId), 0)
  } catch {
    return false
  }
}

/** The memory that the worker's processes have for themselves, in MB. */
export async function memoryOf(runner: 'docker' | 'process', { containerId }: SeenWorker): Promise<number> {
  if (containerId === null) throw new Error('the worker has no container yet')
  if (runner === 'process') return residentMb(Number(containerId))
  const stats = (await callEngine('GET', `/containers/${containerId}/stats?stream=false&one-shot=true`)) as {
    readonly memory_stats: { readonly stats: Readonly<Record<string, number>> }
  } | null
  const { rss, anon } = stats?.memory_stats.stats ?? {}
  const bytes = rss ?? anon
  if (bytes === undefined) throw new Error(`the engine does not tell: ${JSON.stringify(stats)}`)
  return bytes / 2 ** 20
}

async function residentMb(pid: number): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8')
  return Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1]) / 1_024
}

/** The engine's answer; `null` where there is no such thing. */
export async function callEngine(method: string, path: string): Promise<unknown> {
  const engine = new URL(process.env['DOCKER_HOST'] ?? '')
  const address =
    engine.protocol === 'unix:'
      ? { socketPath: engine.pathname }
      : { host: engine.hostname, port: engine.port }
  const call = request({ ...address, method, path: `/v1.41${path}` }).end()
  const [answer] = (await once(call, 'response')) as [IncomingMessage]
  const said = await text(answer)
  if (answer.statusCode === 404) return null
  if ((answer.statusCode ?? 500) >= 300) throw new Error(`the engine answered ${answer.statusCode}: ${said}`)
  return said === '' ? {} : JSON.parse(said)
}
