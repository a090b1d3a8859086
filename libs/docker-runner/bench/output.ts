import { spawn } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { OUTPUT_START, silentLogger } from '@gpu-service/tasks'
import { scriptOrder } from '@gpu-service/tasks/testing'
import { createDockerRunner } from '../src/index.ts'

/** One way of reading a worker, in lines of 55 bytes. */
export interface Figure {
  readonly reader: string
  readonly log: 'while it is written' | 'finished'
  readonly linesPerSecond: number
  readonly cpuMsPer100kLines: number | null
}

const LINE = '123456789012345678901234567890123456789012345678901234'

/**
 * How fast `output` is beside `docker logs -f`, in the same run on the engine of DOCKER_HOST: the engine itself is the bound, so only the
 * ratio of the two says anything.
 */
export async function bench({ image = 'busybox:test', lines = 300_000, rounds = 3 } = {}): Promise<Figure[]> {
  const root = await mkdtemp(join(tmpdir(), 'docker-runner-bench-'))
  const installation = `bench${process.pid}`
  await using runner = createDockerRunner({
    installation,
    dataDir: join(root, 'data'),
    modelsDir: join(root, 'models'),
    logger: silentLogger,
  })
  const signal = new AbortController().signal
  const best = new Map<string, Figure>()

  try {
    for (let round = 0; round < rounds; round += 1) {
      for (const log of ['while it is written', 'finished'] as const) {
        for (const reader of ['output', 'docker logs -f']) {
          const order = scriptOrder({ installation, image, script: `yes ${LINE} | head -n ${lines}` })
          await runner.start(order)
          while (log === 'finished' && (await runner.inspect(order.name)).phase === 'running') await pause(20)
          const cpu = process.cpuUsage()
          const startedAt = performance.now()
          let bytes = 0
          if (reader === 'output') {
            for await (const item of runner.output(order.name, { after: OUTPUT_START, signal }))
              if (item.kind === 'data') bytes += item.bytes.length
          } else bytes = await readWithCli(order.name)
          const seconds = (performance.now() - startedAt) / 1_000
          const { user, system } = process.cpuUsage(cpu)
          const read = bytes / (LINE.length + 1)
          // `docker logs -f` ends too early now and then; we must not.
          if (reader === 'output' && read !== lines) throw new Error(`${read} of ${lines} lines were read`)
          await runner.remove(order.name)
          const figure: Figure = {
            reader,
            log,
            linesPerSecond: Math.round(read / seconds),
            cpuMsPer100kLines:
              reader === 'output' ? Math.round(((user + system) / 1_000 / lines) * 100_000) : null,
          }
          const key = `${reader} ${log}`
          if (figure.linesPerSecond > (best.get(key)?.linesPerSecond ?? 0)) best.set(key, figure)
        }
      }
    }
  } finally {
    for (const { name } of await runner.list()) await runner.remove(name)
    await rm(root, { recursive: true, force: true })
  }
  return [...best.values()]
}

function readWithCli(container: string): Promise<number> {
  return new Promise((resolve, reject) => {
    let bytes = 0
    const cli = spawn('docker', ['logs', '-f', container], { stdio: ['ignore', 'pipe', 'inherit'] })
    cli.stdout.on('data', (chunk: Buffer) => (bytes += chunk.length))
    cli.once('error', reject)
    cli.once('close', () => {
      resolve(bytes)
    })
  })
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms))
}

if (process.argv[1] === import.meta.filename) console.table(await bench())
