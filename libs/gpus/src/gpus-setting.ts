/** Where GPUs come from. */
export type GpuSource =
  /** The driver's `nvidia-smi` where there is one, else none. */
  | 'auto'
  | 'none'
  /** GPUs that exist in name only, to try the service on a machine without any. */
  | { readonly simulated: { readonly count: number; readonly memoryMb: number } }

export type GpusSetting =
  | { readonly status: 'parsed'; readonly source: GpuSource }
  | { readonly status: 'invalid'; readonly message: string }

const MAX_COUNT = 64
const MAX_MEMORY_MB = 16_777_216

/** Parses `auto`, `none` or `simulated:<count>x<memory MB>`, as in `simulated:2x81920`. */
export function parseGpusSetting(text: string): GpusSetting {
  if (text === 'auto' || text === 'none') return { status: 'parsed', source: text }
  const [, countText, memoryText] = /^simulated:(\d{1,9})x(\d{1,9})$/.exec(text) ?? []
  if (countText === undefined || memoryText === undefined) {
    return invalid(
      `must be auto, none or simulated:<count>x<memory MB> (as in simulated:2x81920), not ${JSON.stringify(text.slice(0, 100))}`,
    )
  }
  const [count, memoryMb] = [Number(countText), Number(memoryText)]
  if (count < 1 || count > MAX_COUNT)
    return invalid(`the count of simulated GPUs must be 1 to ${MAX_COUNT}, not ${count}`)
  if (memoryMb < 1 || memoryMb > MAX_MEMORY_MB) {
    return invalid(`the memory of a simulated GPU must be 1 to ${MAX_MEMORY_MB} MB, not ${memoryMb}`)
  }
  return { status: 'parsed', source: { simulated: { count, memoryMb } } }
}

function invalid(message: string): GpusSetting {
  return { status: 'invalid', message }
}
