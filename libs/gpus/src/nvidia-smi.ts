import { type ChildProcess, spawn } from 'node:child_process'
import type { GpuId } from '@gpu-service/tasks'

/** What one line of `nvidia-smi` says of one GPU. */
export interface GpuReading {
  readonly id: GpuId
  readonly index: number
  readonly name: string
  /** 0 where the driver does not tell, as for GPUs that share the host's memory. */
  readonly memoryTotalMb: number
  readonly memoryUsedMb: number | null
  readonly utilizationPercent: number | null
  readonly temperatureC: number | null
  readonly powerW: number | null
}

export type Readings =
  | { readonly status: 'read'; readonly gpus: readonly GpuReading[] }
  | { readonly status: 'failed'; readonly reason: string }

/** Asks the driver, one question at a time. */
export interface NvidiaSmi extends AsyncDisposable {
  /** Never rejects, and settles within the deadline whatever becomes of the program. */
  read(): Promise<Readings>
}

const FIELDS = 'uuid,index,name,memory.total,memory.used,utilization.gpu,temperature.gpu,power.draw'
const ARGUMENTS = [`--query-gpu=${FIELDS}`, '--format=csv,noheader,nounits']
const MAX_OUTPUT_BYTES = 256 * 1024

export function createNvidiaSmi(options: { program: string; deadlineMs: number }): NvidiaSmi {
  /** A program that was killed and has not gone: one that hangs in the kernel would be joined by another with every question. */
  let child: ChildProcess | null = null
  const disposed = new AbortController()

  return {
    read() {
      if (child && isAlive(child)) return Promise.resolve(failed('An earlier nvidia-smi still hangs.'))
      try {
        child = spawn(options.program, ARGUMENTS, { stdio: ['ignore', 'pipe', 'pipe'] })
      } catch (error) {
        return Promise.resolve(failed(`nvidia-smi could not be run: ${String(error)}`))
      }
      return answerOf(child, options.deadlineMs, disposed.signal)
    },
    [Symbol.asyncDispose]() {
      disposed.abort()
      return Promise.resolve()
    },
  }
}

function answerOf(child: ChildProcess, deadlineMs: number, disposed: AbortSignal): Promise<Readings> {
  return new Promise((resolve) => {
    const chunks: Buffer[] = []
    let bytes = 0
    const deadline = setTimeout(() => {
      settle(failed(`nvidia-smi did not answer within ${deadlineMs} ms.`))
    }, deadlineMs)
    const onDisposed = (): void => {
      settle(failed('The inventory was closed.'))
    }
    disposed.addEventListener('abort', onDisposed)

    function settle(readings: Readings): void {
      clearTimeout(deadline)
      disposed.removeEventListener('abort', onDisposed)
      // Not waited for: a program that hangs in the kernel dies only when it comes out of it.
      child.kill('SIGKILL')
      child.unref()
      child.stdout?.destroy()
      child.stderr?.destroy()
      resolve(readings)
    }
    function take(chunk: Buffer): void {
      bytes += chunk.length
      chunks.push(chunk)
      if (bytes > MAX_OUTPUT_BYTES) settle(failed(`nvidia-smi said more than ${MAX_OUTPUT_BYTES} bytes.`))
    }
    child.stdout?.on('data', take)
    child.stderr?.on('data', take)
    child.on('error', (error) => {
      settle(failed(`nvidia-smi could not be run: ${error.message}`))
    })
    child.on('close', (code, signal) => {
      const said = Buffer.concat(chunks).toString()
      if (code === 0) settle(parseReadings(said))
      else settle(failed(`nvidia-smi ended with ${signal ?? code}: ${said.trim().slice(0, 500)}`))
    })
  })
}

/** Parses the lines of `--format=csv,noheader,nounits`. One line that is not of that form makes the whole answer worthless. */
export function parseReadings(text: string): Readings {
  const lines = text.split('\n').filter((line) => line.trim() !== '')
  const gpus: GpuReading[] = []
  for (const line of lines) {
    const reading = parseReading(line)
    if (!reading) return failed(`nvidia-smi said something unexpected: ${line.slice(0, 500)}`)
    gpus.push(reading)
  }
  return { status: 'read', gpus: gpus.sort((a, b) => a.index - b.index) }
}

function parseReading(line: string): GpuReading | null {
  const cells = line.split(',').map((cell) => cell.trim())
  const [id, index, name, total, used, utilization, temperature, power] = cells
  if (
    cells.length !== 8 ||
    !id ||
    !/^GPU-[\da-fA-F-]{8,64}$/.test(id) ||
    !index ||
    !/^\d{1,4}$/.test(index) ||
    !name
  )
    return null
  const meters = [total, used, utilization, temperature, power].map(meterOf)
  if (meters.includes(undefined)) return null
  const [memoryTotalMb, memoryUsedMb = null, utilizationPercent = null, temperatureC = null, powerW = null] =
    meters
  return {
    id: id as GpuId,
    index: Number(index),
    name,
    memoryTotalMb: memoryTotalMb ?? 0,
    memoryUsedMb,
    utilizationPercent,
    temperatureC,
    powerW,
  }
}

/** `null`: the driver does not tell, as in `[N/A]`, `[Not Supported]`, `[Unknown Error]`. `undefined`: no meter at all. */
function meterOf(cell: string | undefined): number | null | undefined {
  if (cell === undefined) return undefined
  if (/^-?\d{1,12}(?:\.\d{1,6})?$/.test(cell)) return Number(cell)
  return /^(?:\[[^\]]{1,50}\]|N\/A)$/.test(cell) ? null : undefined
}

function isAlive(child: ChildProcess): boolean {
  return child.pid !== undefined && child.exitCode === null && child.signalCode === null
}

function failed(reason: string): Readings {
  return { status: 'failed', reason }
}
