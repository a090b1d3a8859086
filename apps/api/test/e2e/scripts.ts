import type { PresetSource } from './service.ts'

/** A preset whose worker is a shell script, in a container and as a process alike. */
export function script(lines: string, more: PresetSource = {}): PresetSource {
  const command = ['sh', '-c', lines]
  return { docker_image: 'busybox:test', command, local: command, gpus: { count: 0 }, ...more }
}

export const CONNECTED = `echo '{"event":"connection","status":"connected"}'`
export const FINISHED = `echo '{"event":"finish","status":"completed"}'`
export const say = (delta: string): string => `echo '{"event":"text_delta","delta":"${delta}"}'`
