import { relaxationsOf, type Preset, type WorkerRunner } from '@gpu-service/tasks'

/** In one sentence, how far workers are kept apart from the host. */
export function confinementText(runner: WorkerRunner['kind'], presets: readonly Preset[]): string {
  if (runner === 'process') return 'not confined: plain processes with the rights of the service'
  const relaxed = presets.filter(({ spec }) => relaxationsOf(spec).length > 0).map(({ id }) => id)
  return relaxed.length === 0 ? 'confined' : `confined, less so those of ${relaxed.join(', ')}`
}
