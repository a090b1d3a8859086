/** Says something to the people who read the worker's standard error. */
export function note(text: string): void {
  process.stderr.write(`@gpu-service/worker: ${text}\n`)
}
