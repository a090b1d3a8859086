import { setTimeout as sleep } from 'node:timers/promises'
import { describe, expect, test, vi } from 'vitest'
import { CONNECTED, FINISHED, RUNNERS, script } from './scripts.ts'
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
  test('on the same data folder says who is there, in one line, and exits with a code of its own', async () => {
    await using first = await TestService.start({ runner: 'process', presets: {} })
    const second = TestService.start({ runner: 'process', presets: {}, env: { DATA_DIR: first.dataDir } })
    await expect(second).rejects.toThrow(
      new RegExp(
        `exited with 75 .*\\nThe service could not start\\. Another process \\(${first.pid}\\) uses the database [^\\n]*\\n$`,
        's',
      ),
    )
    expect(await first.query('{ service { version } }')).toBeTruthy()
  })

  test('starts at once where the first was killed', async () => {
    await using service = await TestService.start({ runner: 'process', presets: {} })
    const before = service.pid
    await service.down('SIGKILL')
    await service.up()
    expect(service.pid).not.toBe(before)
  })
})

describe('a service that is sent SIGTERM', () => {
  const PRESETS = {
    quick: script(`${CONNECTED}; ${FINISHED}`),
    stubborn: script(`trap '' TERM; ${CONNECTED}; while :; do sleep 0.05; done`, {
      timeouts: { stop_grace: '3s' },
    }),
  }

  test('again while it stops its workers ends at once, and the next start finishes what it began', async () => {
    const env = { SHUTDOWN: 'stop', LOG_LEVEL: 'info' }
    await using service = await TestService.start({ runner: 'process', presets: PRESETS, env })
    const id = await service.submit('stubborn')
    await service.reached(id, 'RUNNING')
    process.kill(service.pid, 'SIGTERM')
    await vi.waitFor(() => {
      expect(service.output).toContain('Stopping.')
    })
    // Two within half a second are one.
    await sleep(600)
    const start = performance.now()
    expect(await service.down('SIGTERM')).toBe(1)
    expect(performance.now() - start).toBeLessThan(1_000)
    await service.up()
    expect(await service.ended(id)).toMatchObject({ status: 'CANCELLED' })
    expect(faultsOf(await service.events(id))).toEqual([])
  })

  test('at any moment of its start leaves all as it was', { timeout: 120_000 }, async () => {
    await using service = await TestService.start({ runner: 'process', presets: PRESETS })
    const id = await service.submit('stubborn')
    await service.reached(id, 'RUNNING')
    await service.down()
    for (const afterMs of [50, 300, 600, 900, 1_200]) {
      const started = service.up().then(
        () => 'ready',
        () => 'gone',
      )
      await sleep(afterMs)
      process.kill(service.pid, 'SIGTERM')
      await service.died()
      await started
      await service.down()
    }
    await service.up()
    expect(await service.task(id)).toMatchObject({ status: 'RUNNING', attempt: 1 })
    expect(await service.run('quick')).toMatchObject({ status: 'COMPLETED' })
    await service.cancel(id)
    expect(await service.ended(id)).toMatchObject({ status: 'CANCELLED' })
  })
})

describe('a service that stands still for 5 s', () => {
  test('goes on with its streams where they were', async () => {
    const lines = `i=0; while [ $i -lt 300 ]; do echo "{\\"event\\":\\"text_delta\\",\\"delta\\":\\"$i \\"}"; i=$((i+1)); sleep 0.02; done`
    await using service = await TestService.start({
      runner: 'process',
      presets: { count: script(`${CONNECTED}; ${lines}; ${FINISHED}`, { timeouts: { silence: '3s' } }) },
    })
    const id = await service.submit('count')
    const watched = service.events(id)
    await service.events(id, 0, (event) => event['delta'] === '50 ')
    process.kill(service.pid, 'SIGSTOP')
    await sleep(5_000)
    process.kill(service.pid, 'SIGCONT')
    expect(faultsOf(await watched)).toEqual([])
    const text = Array.from({ length: 300 }, (_, i) => `${i} `).join('')
    expect(await service.task(id)).toMatchObject({ status: 'COMPLETED', attempt: 1, text })
  })
})

describe('wrong settings', () => {
  test('are all printed at once, and the service exits', async () => {
    const started = TestService.start({
      runner: 'process',
      presets: {},
      env: { PORT: 'x', HOST: 'example.com', GPUS: 'many' },
    })
    await expect(started).rejects.toThrow(/exited with 78 .*HOST.*PORT.*GPUS/s)
  })

  test('in the presets file leave the service without presets, and are named at its start', async () => {
    await using service = await TestService.start({ runner: 'process', presets: { bad: { command: 'sh' } } })
    expect(service.output).toMatch(/presets\.yaml:\d+:\d+: .*docker_image/)
    expect(await service.query('{ presets { id } }')).toEqual({ presets: [] })
  })
})
