import { watch } from 'node:fs'
import { type FileHandle, open } from 'node:fs/promises'
import type { Logger, OutputCursor, OutputStream, WorkerOutput } from '@gpu-service/tasks'
import { runs } from './process-table.ts'
import { type Finding, isMissing, type WorkerFolder } from './worker-folder.ts'

/** The most bytes that one item holds. */
const CHUNK_BYTES = 128 * 1024
/** How often the worker is looked at where the folder reports nothing: for a launcher that was killed, and for file systems that cannot be watched. */
const BACKSTOP_MS = 200
/** Between a worker's exit and the end of its launcher. */
const ENDING_MS = 3

/** After the system refused to read. */
const RETRY_MS = 500

const NEWLINE = 10

/** Reads a worker's output files from a cursor (the byte offset after a line, per stream) to the worker's end. */
export async function* readOutputFiles(
  folder: WorkerFolder,
  look: () => Promise<Finding>,
  { after, signal, logger }: { after: OutputCursor; signal: AbortSignal; logger: Logger },
): AsyncGenerator<WorkerOutput, void> {
  if (signal.aborted) return
  const buffer = Buffer.allocUnsafeSlow(CHUNK_BYTES)
  await using stdout = createFileReader('stdout', folder.stdout, parseOffset(after.stdout), buffer)
  await using stderr = createFileReader('stderr', folder.stderr, parseOffset(after.stderr), buffer)
  // Watched before the first look, so that no change falls in between.
  using changes = watchFolder(folder.path, signal)
  let finding = await patiently(look)

  while (finding !== null) {
    let said = false
    for (const reader of [stdout, stderr]) {
      const item = await patiently(() => reader.read())
      if (isAborted(signal)) return
      if (!item) continue
      said = true
      yield item
      if (isAborted(signal)) return
    }
    if (said) continue

    if (finding.phase === 'exited' || finding.phase === 'unknown') {
      // Whatever was written before the end was seen has been read after it.
      yield finding.phase === 'exited'
        ? { kind: 'end', exit: finding.exit, cause: null }
        : { kind: 'lost', detail: finding.detail }
      return
    }
    const isEnding = finding.phase === 'running' && finding.ending
    const change = await changes.next(isEnding ? ENDING_MS : BACKSTOP_MS)
    if (change === 'data' && !isEnding) continue
    if (change === 'nothing' && !isEnding && finding.phase === 'running' && (await runs(finding.identity)))
      continue
    finding = await patiently(look)
  }

  /** Tries until it succeeds: a disk or a file table that refuses now may not do so later. `null` once reading is over. */
  async function patiently<T>(step: () => Promise<T>): Promise<T | null> {
    while (!isAborted(signal)) {
      try {
        return await step()
      } catch (error) {
        logger.warn({ worker: folder.name, error }, 'The output of a worker cannot be read now; trying again')
        await changes.next(RETRY_MS)
      }
    }
    return null
  }
}

interface FileReader extends AsyncDisposable {
  /** The next stretch; `null` where nothing is there now. */
  read(): Promise<WorkerOutput | null>
}

function createFileReader(stream: OutputStream, path: string, start: number, buffer: Buffer): FileReader {
  let file: FileHandle | null = null
  let offset = start
  /** After the last newline that was read. */
  let lineEnd = start

  return {
    async read() {
      try {
        file ??= await open(path, 'r')
      } catch (error) {
        if (isMissing(error)) return null
        throw error
      }
      const { bytesRead } = await file.read(buffer, 0, buffer.length, offset)
      const { size, mtimeMs } = await file.stat()
      if (bytesRead === 0) {
        if (size >= offset) return null
        const detail = `${stream} of the worker ends at byte ${size}, before the ${offset} that were read already.`
        offset = lineEnd = size
        return { kind: 'gap', certain: true, detail }
      }
      const bytes = buffer.subarray(0, bytesRead)
      const newline = bytes.lastIndexOf(NEWLINE)
      if (newline !== -1) lineEnd = offset + newline + 1
      offset += bytesRead
      return {
        kind: 'data',
        stream,
        bytes,
        cursor: String(lineEnd),
        at: Math.min(Date.now(), Math.ceil(mtimeMs)),
      }
    },
    async [Symbol.asyncDispose]() {
      await file?.close()
    },
  }
}

/** What happened in a folder since it was last asked. */
type Change = 'data' | 'entries' | 'nothing'

interface FolderChanges extends Disposable {
  /** Resolves at the next change (at once where there was one since the last call), after `ms`, or when the signal is aborted. */
  next(ms: number): Promise<Change>
}

function watchFolder(path: string, signal: AbortSignal): FolderChanges {
  let change: Change = 'nothing'
  let wake: (() => void) | null = null

  function note(kind: Change): void {
    if (change !== 'entries') change = kind
    wake?.()
  }
  const onAbort = (): void => wake?.()
  signal.addEventListener('abort', onAbort)
  const watcher = openWatcher(path, note)

  return {
    async next(ms) {
      if (change === 'nothing' && !signal.aborted) {
        await new Promise<void>((resolve) => {
          const timer = setTimeout(resolve, ms)
          wake = () => {
            clearTimeout(timer)
            resolve()
          }
        })
        wake = null
      }
      const happened = change
      change = 'nothing'
      return happened
    },
    [Symbol.dispose]() {
      signal.removeEventListener('abort', onAbort)
      watcher?.close()
    },
  }
}

/** `null` where the folder cannot be watched (it is gone, or the system's watches are used up): the backstop goes on alone. */
function openWatcher(path: string, note: (kind: Change) => void): { close(): void } | null {
  try {
    const watcher = watch(path, (event) => {
      note(event === 'change' ? 'data' : 'entries')
    })
    watcher.on('error', () => {
      watcher.close()
    })
    return watcher
  } catch {
    return null
  }
}

/** A cursor is text of ours; anything else was mixed up by the caller. */
function parseOffset(cursor: string): number {
  if (cursor === '') return 0
  if (!/^\d{1,15}$/.test(cursor))
    throw new RangeError(`${JSON.stringify(cursor)} is not a cursor of this runner`)
  return Number(cursor)
}

/** Asked through a function because the compiler takes a property that was false to stay so. */
function isAborted(signal: AbortSignal): boolean {
  return signal.aborted
}
