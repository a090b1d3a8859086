import { describe, expect, test } from 'vitest'
import { CONNECTED, RUNNERS, script } from './scripts.ts'
import { faultsOf, TestService } from './service.ts'

for (const { runner, skipped } of RUNNERS) {
  describe.skipIf(skipped)(`the service with the ${runner} runner`, () => {
    test('stops its workers and cancels their tasks on SIGTERM where SHUTDOWN=stop', async () => {
      await using service = await TestService.start({
        runner,
        env: { SHUTDOWN: 'stop' },
        presets: { long: script(`${CONNECTED}; sleep 600`) },
      })
      const id = await service.submit('long')
      await service.reached(id, 'RUNNING')
      expect(await service.down('SIGTERM')).toBe(0)
      await service.up()
      expect(await service.task(id)).toMatchObject({ status: 'CANCELLED', exitCode: 143 })
      expect(faultsOf(await service.events(id))).toEqual([])
      const { workers } = await service.query<{ workers: unknown[] }>('{ workers { id } }')
      expect(workers).toEqual([])
    })

    test('starts no waiting task any more on SIGTERM where SHUTDOWN=stop', async () => {
      await using service = await TestService.start({
        runner,
        env: { SHUTDOWN: 'stop', MAX_WORKERS: '1' },
        presets: { long: script(`${CONNECTED}; sleep 600`) },
      })
      const running = await service.submit('long')
      await service.reached(running, 'RUNNING')
      const waiting = await service.submit('long')
      expect(await service.down('SIGTERM')).toBe(0)
      await service.up()
      expect(await service.task(running)).toMatchObject({ status: 'CANCELLED' })
      expect(['QUEUED', 'STARTING', 'RUNNING']).toContain((await service.task(waiting)).status)
      await service.cancel(waiting)
      await service.ended(waiting)
    })
  })
}

describe('a second service', () => {
  test('on the same data folder says so and exits', async () => {
    await using first = await TestService.start({ runner: 'process', presets: {} })
    const second = TestService.start({ runner: 'process', presets: {}, env: { DATA_DIR: first.dataDir } })
    await expect(second).rejects.toThrow(/exited with 1 .*(in use|another process)/is)
  })
})

describe('wrong settings', () => {
  test('are all printed at once, and the service exits', async () => {
    const started = TestService.start({
      runner: 'process',
      presets: {},
      env: { PORT: 'x', HOST: '0.0.0.0', GPUS: 'many' },
    })
    await expect(started).rejects.toThrow(/exited with 78 .*HOST.*PORT.*GPUS/s)
  })

  test('in the presets file leave the service without presets, and are named at its start', async () => {
    await using service = await TestService.start({ runner: 'process', presets: { bad: { command: 'sh' } } })
    expect(service.output).toMatch(/presets\.yaml:\d+:\d+: .*docker_image/)
    expect(await service.query('{ presets { id } }')).toEqual({ presets: [] })
  })
})
