import { LOADING_WORKER_IMAGE, SESSION_WORKER_IMAGE, testEngine } from '@gpu-service/test-engine'
import { beforeAll, describe, expect, test } from 'vitest'
import { grade } from './grade.ts'

const engine = testEngine()

describe.skipIf(engine === null)('the images that come with the service', () => {
  beforeAll(async () => {
    for (const image of [LOADING_WORKER_IMAGE, SESSION_WORKER_IMAGE] as const)
      await engine?.ensureImage(image)
  }, 300_000)

  test('session-worker follows the protocol, both ways', async () => {
    const found = await grade('', {
      subject: { kind: 'image', image: SESSION_WORKER_IMAGE, command: [] },
      input: { text: 'hello', tokens: 2 },
      longInput: { text: 'on and on', tokens: 1_000_000, interval_ms: 10 },
      env: { LOAD_SECONDS: '0' },
      concurrency: 2,
    })
    expect(found.findings).toEqual([])
    expect(found.modes).toEqual(['one-off', 'session'])
    expect(found.checks.filter(({ notJudged }) => notJudged !== null)).toEqual([])
  })

  test('loading-worker follows it, and could count its events', async () => {
    const found = await grade('', {
      subject: { kind: 'image', image: LOADING_WORKER_IMAGE, command: ['python', '/app/worker.py'] },
      mode: 'one-off',
      input: {},
      env: { LOAD_SECONDS: '0.2', TOKEN_DELAY_SECONDS: '0' },
    })
    expect(found.findings.map(({ code }) => code)).toEqual(['NO_SEQ'])
    expect(found.isConformant).toBe(true)
  })
})
