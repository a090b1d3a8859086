import { open, readdir, stat } from 'node:fs/promises'
import { join } from 'node:path'

/** Of a model in several files, all but the first; the engine finds them itself. */
const LATER_PART = /-(?!00001)\d{5}-of-\d{5}\.gguf$/
/** What a model for pictures has beside its text model. */
const PROJECTOR = /mmproj/i

/** Far above what any model has. */
const MAX_ENTRIES = 1_000_000n

/** The model file at a path: the file itself, or the one that its folder holds. Throws where there is none, or a choice, or where it is no GGUF file. */
export async function findModelFile(path: string): Promise<string> {
  const file = await locate(path)
  // The engine believes what stands there, and reads on for minutes.
  if (!(await isGguf(file)))
    throw new Error(`${file} is no GGUF file, or one of a version that is not known here`)
  return file
}

async function locate(path: string): Promise<string> {
  const found = await stat(path).catch(() => null)
  if (found === null) throw new Error(`there is no model at ${path}: put a GGUF file there`)
  if (!found.isDirectory()) return path
  const files = (await readdir(path)).filter(
    (name) => name.endsWith('.gguf') && !LATER_PART.test(name) && !PROJECTOR.test(name),
  )
  const [file] = files
  if (file === undefined) throw new Error(`there is no GGUF file in the folder ${path}`)
  if (files.length > 1) {
    throw new Error(`the folder ${path} holds ${files.sort().join(', ')}: let MODEL_PATH name one of them`)
  }
  return join(path, file)
}

/** Whether the file begins as one: a mark, the version, and how many tensors and entries of metadata it has. */
async function isGguf(path: string): Promise<boolean> {
  await using file = await open(path)
  const { bytesRead, buffer } = await file.read(Buffer.alloc(24))
  if (bytesRead < 24 || buffer.toString('latin1', 0, 4) !== 'GGUF') return false
  const version = buffer.readUInt32LE(4)
  const counts = [buffer.readBigUInt64LE(8), buffer.readBigUInt64LE(16)]
  return (version === 2 || version === 3) && counts.every((count) => count < MAX_ENTRIES)
}
