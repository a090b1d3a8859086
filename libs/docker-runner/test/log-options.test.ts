import {
  BUSYBOX_IMAGE,
  ensureTestImage,
  privateEngineObstacle,
  startPrivateEngine,
} from '@gpu-service/test-engine'
import { afterEach, describe, expect, it, vi } from 'vitest'
import { readOutput } from '@gpu-service/tasks/testing'
import { type DockerRig, openRig } from './rig.ts'

const LINES = 20_000

describe.skipIf(privateEngineObstacle() !== null)(
  'an engine whose daemon.json sets the log of every container',
  { timeout: 60_000 },
  () => {
    afterEach(() => {
      vi.unstubAllEnvs()
    })

    const never = new AbortController().signal

    async function onEngine(daemonConfig: object, told: (rig: DockerRig) => Promise<void>) {
      await using engine = await startPrivateEngine({ daemonConfig: { ...daemonConfig } })
      await ensureTestImage(engine.dockerHost, BUSYBOX_IMAGE)
      vi.stubEnv('DOCKER_HOST', engine.dockerHost)
      await using rig = await openRig()
      await told(rig)
    }

    it.each([
      ['that is kept nowhere', { 'log-driver': 'none' }],
      ['of another form', { 'log-driver': 'local', 'log-opts': { 'max-size': '8k' } }],
    ])('to one %s keeps a whole one of workers', async (_what, daemonConfig) => {
      await onEngine(daemonConfig, async (rig) => {
        const { name } = await rig.start(`seq 1 ${LINES}`)
        const { stdout, gaps } = await readOutput(rig.runner, name, { signal: never })
        expect(stdout.toString().split('\n')).toHaveLength(LINES + 1)
        expect(gaps).toEqual([])
      })
    })

    it('to one that does not block, with a buffer of some size, starts no worker, and the failure says what to change', async () => {
      const options = { mode: 'non-blocking', 'max-buffer-size': '4m' }
      await onEngine({ 'log-opts': options }, async (rig) => {
        const failed = await rig.startFailing(rig.order('true'))
        expect(failed).toMatchObject({ code: 'ENGINE_REFUSED' })
        expect(failed.hint).toMatch(/`max-buffer-size` out of `log-opts`/)
        expect(await rig.containers()).toEqual([])
      })
    })
  },
)
