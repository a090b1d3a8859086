/** A stretch of speech; times in seconds from the beginning of the audio. */
export interface Segment {
  readonly start: number
  readonly end: number
  readonly text: string
}

/** As SubRip has it. */
export function toSrt(segments: readonly Segment[]): string {
  return segments
    .map(
      ({ start, end, text }, index) =>
        `${index + 1}\n${clock(start, ',')} --> ${clock(end, ',')}\n${oneLine(text)}\n`,
    )
    .join('\n')
}

/** As WebVTT has it. */
export function toVtt(segments: readonly Segment[]): string {
  const cues = segments.map(
    ({ start, end, text }) => `\n${clock(start, '.')} --> ${clock(end, '.')}\n${escaped(oneLine(text))}\n`,
  )
  return `WEBVTT\n${cues.join('')}`
}

function clock(seconds: number, decimalMark: string): string {
  const total = Math.round(seconds * 1000)
  const two = (value: number): string => String(Math.floor(value)).padStart(2, '0')
  const rest = String(total % 1000).padStart(3, '0')
  return `${two(total / 3_600_000)}:${two((total / 60_000) % 60)}:${two((total / 1000) % 60)}${decimalMark}${rest}`
}

/** An empty line would end the cue, and an arrow begin another. */
function oneLine(text: string): string {
  return text.replace(/\s+/gu, ' ').replaceAll('-->', '->').trim()
}

function escaped(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;')
}
