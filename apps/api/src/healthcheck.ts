import { get } from 'node:http'
import { text } from 'node:stream/consumers'
import { readConfig } from './config.ts'

/** Beyond it the health check of the image gives up on its own. */
const TIMEOUT_MS = 4_000
/** Addresses that stand for all of the machine's, each with the one by which it is reached from inside. */
const INSIDE: Readonly<Record<string, string>> = { '0.0.0.0': '127.0.0.1', '::': '::1' }

/** The health check of the service's image: ends with 0 where the service takes tasks, else says what it lacks. */
async function main(): Promise<void> {
  const read = readConfig(process.env, { cwd: process.cwd() })
  if (read.status === 'invalid') throw new Error('The settings cannot be read.')
  const { host, port } = read.config
  const { status, body } = await ask(INSIDE[host] ?? host, port)
  process.stdout.write(body)
  if (status !== 200) process.exitCode = 1
}

function ask(host: string, port: number): Promise<{ status: number | undefined; body: string }> {
  return new Promise((resolve, reject) => {
    // A name that is always served, whatever address it is.
    const headers = { host: 'localhost', connection: 'close' }
    const signal = AbortSignal.timeout(TIMEOUT_MS)
    get({ host, port, path: '/readyz', headers, signal }, (response) => {
      text(response).then((body) => {
        resolve({ status: response.statusCode, body })
      }, reject)
    }).on('error', reject)
  })
}

main().catch((error: unknown) => {
  process.stdout.write(error instanceof Error ? error.message : String(error))
  process.exitCode = 1
})
