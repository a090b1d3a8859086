import { describe, expect, test } from 'vitest'
import { EXAMPLE_SPEC } from '../../src/testing/index.ts'
import { isPoisoned, outcomeOf, type AttemptEnd } from '../../src/workers/outcome.ts'

const exited = (
  exitCode: number | null,
  oomKilled = false,
  cause: string | null = null,
): AttemptEnd['end'] => ({
  kind: 'exited',
  exit: { exitCode, oomKilled, finishedAt: 0 },
  cause,
})

const attempt = (more: Partial<AttemptEnd>): AttemptEnd => ({
  end: exited(0),
  finish: null,
  stopReason: null,
  cancelReason: null,
  cancelRequested: false,
  timeouts: { ...EXAMPLE_SPEC.timeouts, runMs: 1_000, startMs: 2_000, silenceMs: 3_000 },
  hungAfterFinish: false,
  outputLost: false,
  isInDoubt: false,
  excess: null,
  lastWords: [],
  ...more,
})

type AttemptFailure = ReturnType<typeof outcomeOf>['failureClass']

const completed = { status: 'completed', error: null } as const

describe('how an attempt ends', () => {
  test.each<
    [
      string,
      Partial<AttemptEnd>,
      {
        status: string
        code?: string
        exitCode?: number | null
        reason?: RegExp
        failureClass?: AttemptFailure
      },
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
      'exit 0 without finish, some of the output being missing perhaps',
      { isInDoubt: true },
      { status: 'FAILED', code: 'OUTPUT_LOST', failureClass: 'engine', reason: /finish event never came/ },
    ],
    [
      'another exit code without finish, some of the output being missing perhaps',
      { isInDoubt: true, end: exited(7) },
      { status: 'FAILED', code: 'WORKER_FAILED' },
    ],
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
      'a start that was lost with the engine that was at it',
      {
        end: {
          kind: 'start-failed',
          failure: { status: 'failed', code: 'START_LOST', message: 'It went away.', hint: '' },
        },
      },
      { status: 'FAILED', code: 'START_FAILED', reason: /^It went away\.$/ },
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
    [
      'no sign of life in time',
      { end: exited(137), stopReason: 'start-timeout' },
      { status: 'TIMED_OUT', code: 'START_TIMEOUT', reason: /2000 ms of timeouts.start/ },
    ],
    [
      'silence for too long',
      { end: exited(143), stopReason: 'silence' },
      { status: 'TIMED_OUT', code: 'SILENCE_TIMEOUT', reason: /3000 ms/ },
    ],
    [
      'a GPU that was lost',
      { end: exited(137), stopReason: 'gpu-lost' },
      { status: 'FAILED', code: 'GPU_LOST', failureClass: 'gpu_lost' },
    ],
    [
      "a session task's end that was lost with its output",
      { end: { kind: 'given-up', detail: 'It was asked to.' }, stopReason: 'output-lost', outputLost: true },
      { status: 'FAILED', code: 'OUTPUT_LOST', failureClass: 'engine' },
    ],
    [
      "a session task's finish",
      { end: { kind: 'finished' }, finish: completed },
      { status: 'COMPLETED', exitCode: null },
    ],
    [
      'a session worker that died',
      {
        end: {
          kind: 'worker-ended',
          exit: { exitCode: 139, oomKilled: false, finishedAt: 0 },
          detail: 'It died.',
        },
      },
      { status: 'FAILED', code: 'WORKER_DIED', exitCode: 139, failureClass: 'session_died' },
    ],
    [
      'a session worker that was killed for memory',
      {
        end: {
          kind: 'worker-ended',
          exit: { exitCode: 137, oomKilled: true, finishedAt: 0 },
          detail: 'It died.',
        },
      },
      { status: 'FAILED', code: 'OUT_OF_MEMORY', failureClass: 'out_of_memory' },
    ],
    [
      'a session worker that is gone',
      { end: { kind: 'worker-ended', exit: null, detail: 'It is gone.' } },
      { status: 'FAILED', code: 'LOST', failureClass: 'engine' },
    ],
    [
      'a session worker that did not take the task',
      { end: { kind: 'unacknowledged', detail: 'Not a word.' } },
      { status: 'FAILED', code: 'UNACKNOWLEDGED', failureClass: 'unacknowledged', reason: /Not a word/ },
    ],
    [
      'bad input, by the word of the worker',
      { finish: { status: 'failed', error: { code: 'INVALID_INPUT', message: 'no prompt' } } },
      { status: 'FAILED', code: 'WORKER_FAILED', failureClass: null },
    ],
    [
      'a GPU without memory, by the word of the worker',
      {
        finish: { status: 'failed', error: { code: 'X', message: 'CUDA out of memory. Tried to allocate' } },
      },
      { status: 'FAILED', code: 'WORKER_FAILED', failureClass: 'out_of_memory' },
    ],
    [
      'a broken context of a session worker',
      {
        end: { kind: 'finished' },
        finish: {
          status: 'failed',
          error: { code: 'X', message: 'CUDA error: an illegal memory access was encountered' },
        },
      },
      { status: 'FAILED', code: 'WORKER_FAILED', failureClass: 'session_died' },
    ],
    [
      'exit 1, as a class',
      { end: exited(1) },
      { status: 'FAILED', code: 'WORKER_FAILED', failureClass: 'worker_failed' },
    ],
    [
      'taken along by what it runs on',
      { end: exited(137, false, 'The engine was stopped.') },
      {
        status: 'FAILED',
        code: 'LOST',
        exitCode: 137,
        failureClass: 'engine',
        reason: /^The engine was stopped. Its exit code is 137 \(SIGKILL\)/,
      },
    ],
    [
      'taken along, with a finish cancelled that nobody had asked for',
      { end: exited(0, false, 'The engine was stopped.'), finish: { status: 'cancelled', error: null } },
      { status: 'FAILED', code: 'LOST', failureClass: 'engine' },
    ],
    [
      'taken along after its finish completed',
      { end: exited(143, false, 'The engine was stopped.'), finish: completed },
      { status: 'COMPLETED', exitCode: 143, reason: /Warning/ },
    ],
    [
      'taken along while it was being cancelled',
      { end: exited(143, false, 'The engine was stopped.'), stopReason: 'cancel', cancelRequested: true },
      { status: 'CANCELLED', exitCode: 143 },
    ],
    [
      'an image that cannot be pulled, as a class',
      {
        end: {
          kind: 'start-failed',
          failure: { status: 'failed', code: 'PULL_FAILED', message: 'No.', hint: '' },
        },
      },
      { status: 'FAILED', code: 'PULL_FAILED', failureClass: 'engine' },
    ],
  ])('%s', (_name, given, wanted) => {
    const outcome = outcomeOf(attempt(given))
    expect(outcome.status).toBe(wanted.status)
    expect(outcome.error?.code).toBe(wanted.code)
    if (wanted.exitCode !== undefined) expect(outcome.exitCode).toBe(wanted.exitCode)
    if (wanted.failureClass !== undefined) expect(outcome.failureClass).toBe(wanted.failureClass)
    if (wanted.reason !== undefined) expect(outcome.reason).toMatch(wanted.reason)
  })

  test('quotes the last lines of stderr where the worker itself says nothing', () => {
    const outcome = outcomeOf(attempt({ end: exited(1), lastWords: ['Traceback', 'ValueError: no'] }))
    expect(outcome.error?.message).toBe(
      'The worker exited with code 1, without a finish event. Its last words on stderr:\nTraceback\nValueError: no',
    )
  })

  test.each([
    ['CUDA error: device-side assert triggered', 'WORKER_FAILED', true],
    ['CUDA out of memory. Tried to allocate 2.00 GiB', 'WORKER_FAILED', true],
    ['Failed to initialize NVML: Unknown Error', 'WORKER_FAILED', true],
    ['whatever', 'CUDA_ERROR', true],
    ['the prompt is empty', 'INVALID_INPUT', false],
    ['division by zero', 'WORKER_FAILED', false],
  ])('"%s" (%s) leaves a session worker in doubt: %s', (message, code, wanted) => {
    expect(isPoisoned({ status: 'failed', error: { code, message } })).toBe(wanted)
  })
})
