import { BUSYBOX_IMAGE, testEngine } from '@gpu-service/test-engine'
import type { PresetSource } from './service.ts'

/** Without an engine the tests that need one are skipped, which the run says aloud. */
export const noDocker = testEngine() === null

export const RUNNERS = [
  { runner: 'docker', skipped: noDocker },
  { runner: 'process', skipped: false },
] as const

/** A preset whose worker is a shell script, in a container and as a process alike. */
export function script(lines: string, more: PresetSource = {}): PresetSource {
  const command = ['sh', '-c', lines]
  return { docker_image: BUSYBOX_IMAGE, command, local: command, gpus: { count: 0 }, ...more }
}

export const CONNECTED = `echo '{"event":"connection","status":"connected"}'`
export const FINISHED = `echo '{"event":"finish","status":"completed"}'`
export const say = (delta: string): string => `echo '{"event":"text_delta","delta":"${delta}"}'`
