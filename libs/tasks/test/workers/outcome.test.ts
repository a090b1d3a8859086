import { describe, expect, test } from 'vitest'
import { outcomeOf, type AttemptEnd } from '../src/outcome.ts'

const exited = (exitCode: number | null, oomKilled = false): AttemptEnd['end'] => ({
  kind: 'exited',
  exit: { exitCode, oomKilled, finishedAt: 0 },
})

const attempt = (more: Partial<AttemptEnd>): AttemptEnd => ({
  end: exited(0),
  finish: null,
  stopReason: null,
  cancelReason: null,
  cancelRequested: false,
  timeoutMs: 1_000,
  hungAfterFinish: false,
  outputLost: false,
  lastWords: [],
  ...more,
})

const completed = { status: 'completed', error: null } as const

describe('how an attempt ends', () => {
  test.each<
    [
      string,
      Partial<AttemptEnd>,
      { status: string; code?: string; exitCode?: number | null; reason?: RegExp },
    ]
  >([
    ['finish completed and exit 0', { finish: completed }, { status: 'COMPLETED', exitCode: 0 }],
    [
      'finish completed, then another exit code',
      { finish: completed, end: exited(3) },
      { status: 'COMPLETED', exitCode: 3, reason: /Warning.*code 3/ },
    ],
    [
      'finish completed, then killed for memory',
      { finish: completed, end: exited(137, true) },
      { status: 'COMPLETED', exitCode: 137, reason: /killed for memory/ },
    ],
    [
      'finish completed, a child killed for memory',
      { finish: completed, end: exited(0, true) },
      { status: 'COMPLETED', exitCode: 0, reason: /a process of the worker was killed for memory/ },
    ],
    [
      'finish completed, then hung',
      { finish: completed, end: exited(143), hungAfterFinish: true },
      { status: 'COMPLETED', exitCode: 143, reason: /did not exit/ },
    ],
    [
      'finish failed and exit 0',
      { finish: { status: 'failed', error: { code: 'WORKER_FAILED', message: 'no model' } } },
      { status: 'FAILED', code: 'WORKER_FAILED', reason: /^no model$/ },
    ],
    [
      "finish failed with the worker's own code",
      { finish: { status: 'failed', error: { code: 'BAD_PROMPT', message: 'empty' } } },
      { status: 'FAILED', code: 'WORKER_FAILED', reason: /^BAD_PROMPT: empty$/ },
    ],
    [
      'finish cancelled that was asked for',
      {
        finish: { status: 'cancelled', error: null },
        cancelRequested: true,
        cancelReason: 'changed my mind',
      },
      { status: 'CANCELLED', reason: /changed my mind/ },
    ],
    [
      'finish cancelled that nobody asked for',
      { finish: { status: 'cancelled', error: null } },
      { status: 'FAILED', code: 'WORKER_FAILED' },
    ],
    ['exit 0 without finish', {}, { status: 'FAILED', code: 'NO_FINISH', exitCode: 0 }],
    [
      'another exit code without finish',
      { end: exited(7) },
      { status: 'FAILED', code: 'WORKER_FAILED', exitCode: 7, reason: /code 7/ },
    ],
    [
      'a signal without finish',
      { end: exited(139) },
      { status: 'FAILED', code: 'WORKER_FAILED', exitCode: 139, reason: /SIGSEGV/ },
    ],
    [
      'killed for memory without finish',
      { end: exited(137, true) },
      { status: 'FAILED', code: 'OUT_OF_MEMORY', exitCode: 137 },
    ],
    [
      'a child killed for memory, exit 0 without finish',
      { end: exited(0, true) },
      { status: 'FAILED', code: 'NO_FINISH' },
    ],
    [
      'stopped for a cancel',
      { end: exited(143), stopReason: 'cancel', cancelRequested: true },
      { status: 'CANCELLED', exitCode: 143 },
    ],
    [
      'stopped for a cancel, and finish completed came after it was recorded',
      { finish: completed, stopReason: 'cancel', cancelRequested: true },
      { status: 'CANCELLED' },
    ],
    [
      'cancelled, but finish completed was stored before',
      { finish: completed, cancelRequested: true },
      { status: 'COMPLETED' },
    ],
    [
      'stopped for its timeout',
      { end: exited(137), stopReason: 'timeout' },
      { status: 'TIMED_OUT', code: 'RUN_TIMEOUT' },
    ],
    [
      'stopped for its timeout, and a cancel came later',
      { end: exited(137), stopReason: 'timeout', cancelRequested: true },
      { status: 'TIMED_OUT', code: 'RUN_TIMEOUT' },
    ],
    [
      'finish completed with lost output',
      { finish: completed, outputLost: true },
      { status: 'FAILED', code: 'OUTPUT_LOST' },
    ],
    [
      'gone without a trace',
      { end: { kind: 'lost', detail: 'removed' } },
      { status: 'FAILED', code: 'LOST', exitCode: null },
    ],
    [
      'gone after finish completed',
      { end: { kind: 'lost', detail: 'removed' }, finish: completed },
      { status: 'COMPLETED', reason: /Warning/ },
    ],
    [
      'an image that is not there',
      {
        end: {
          kind: 'start-failed',
          failure: { status: 'failed', code: 'IMAGE_NOT_FOUND', message: 'No image x.', hint: 'Build it.' },
        },
      },
      { status: 'FAILED', code: 'IMAGE_NOT_FOUND', reason: /No image x\. Build it\./ },
    ],
    [
      'a start that the engine refused for a reason of its own',
      {
        end: {
          kind: 'start-failed',
          failure: { status: 'failed', code: 'ENGINE_REFUSED', message: 'No space.', hint: '' },
        },
      },
      { status: 'FAILED', code: 'START_FAILED', reason: /^No space\.$/ },
    ],
    [
      'a start that failed after a cancel',
      {
        end: {
          kind: 'start-failed',
          failure: { status: 'failed', code: 'ENGINE_UNAVAILABLE', message: '', hint: '' },
        },
        stopReason: 'cancel',
        cancelRequested: true,
      },
      { status: 'CANCELLED' },
    ],
  ])('%s', (_name, given, wanted) => {
    const outcome = outcomeOf(attempt(given))
    expect(outcome.status).toBe(wanted.status)
    expect(outcome.error?.code).toBe(wanted.code)
    if (wanted.exitCode !== undefined) expect(outcome.exitCode).toBe(wanted.exitCode)
    if (wanted.reason !== undefined) expect(outcome.reason).toMatch(wanted.reason)
  })

  test('quotes the last lines of stderr where the worker itself says nothing', () => {
    const outcome = outcomeOf(attempt({ end: exited(1), lastWords: ['Traceback', 'ValueError: no'] }))
    expect(outcome.error?.message).toBe(
      'The worker exited with code 1, without a finish event. Its last words on stderr:\nTraceback\nValueError: no',
    )
  })
})
