import { describe, expect, test } from 'vitest'
import { FAILURE_CAUSES, type FailureCause } from '../../src/evidence.ts'
import type { StartFailure } from '../../src/runner.ts'
import { EXAMPLE_SPEC } from '../../src/testing/index.ts'
import { diagnose } from '../../src/workers/diagnosis.ts'
import type { AttemptEnd } from '../../src/workers/outcome.ts'

const exited = (exitCode: number | null, oomKilled = false): AttemptEnd['end'] => ({
  kind: 'exited',
  exit: { exitCode, oomKilled, finishedAt: 0 },
  cause: null,
})
const notStarted = (code: StartFailure['code'], message = 'It is not there.'): AttemptEnd['end'] => ({
  kind: 'start-failed',
  failure: { status: 'failed', code, message, hint: 'Do this.' },
})
const said = (message: string, code = 'WORKER_FAILED'): AttemptEnd['finish'] => ({
  status: 'failed',
  error: { code, message },
})
const completed = { status: 'completed', error: null } as const
const spec = {
  ...EXAMPLE_SPEC,
  timeouts: { ...EXAMPLE_SPEC.timeouts, runMs: 1_000, startMs: 2_000, silenceMs: 3_000, ackMs: 4_000 },
}

const attempt = (more: Partial<AttemptEnd>): AttemptEnd => ({
  end: exited(1),
  finish: null,
  stopReason: null,
  cancelReason: null,
  cancelRequested: false,
  timeouts: spec.timeouts,
  hungAfterFinish: false,
  outputLost: false,
  isInDoubt: false,
  excess: null,
  lastWords: [],
  ...more,
})

const TABLE: readonly [what: string, Partial<AttemptEnd>, FailureCause, says: RegExp][] = [
  ['killed for memory', { end: exited(137, true) }, 'out_of_memory', /the host had no memory left/],
  [
    'memory, by its own words',
    { finish: said('std::bad_alloc: Out of memory') },
    'out_of_memory',
    /smaller model/,
  ],
  [
    'CUDA without memory, said',
    { finish: said('CUDA out of memory. Tried to allocate 20.00 GiB') },
    'gpu_out_of_memory',
    /gpus\.memory/,
  ],
  [
    'CUDA without memory, printed',
    { lastWords: ['torch.OutOfMemoryError: CUDA out of memory.', 'bye'] },
    'gpu_out_of_memory',
    /gpus\.memory/,
  ],
  ['a broken GPU context', { finish: said('CUDA error: device-side assert triggered') }, 'gpu_broken', /Xid/],
  ['a lost GPU', { stopReason: 'gpu-lost', end: exited(137) }, 'gpu_lost', /Xid 79/],
  [
    'too much output',
    { stopReason: 'output-limit', excess: 'said more than 9 events (output.events)' },
    'output_limit',
    /said more than 9 events \(output\.events\)/,
  ],
  [
    'an end that was lost',
    { stopReason: 'output-lost', outputLost: true, isInDoubt: true },
    'output_lost',
    /finish/,
  ],
  ['no GPUs for containers', { end: notStarted('GPU_UNAVAILABLE') }, 'gpu_unavailable', /Do this/],
  ['no image', { end: notStarted('IMAGE_NOT_FOUND') }, 'image_missing', /It is not there\. Do this\./],
  ['a pull that failed', { end: notStarted('PULL_FAILED') }, 'image_missing', /Do this/],
  ['no program', { end: notStarted('COMMAND_NOT_FOUND') }, 'command_missing', /Do this/],
  ['no local program', { end: notStarted('NO_LOCAL_COMMAND') }, 'command_missing', /Do this/],
  ['a secret', { end: notStarted('SECRET_UNAVAILABLE') }, 'secret_unavailable', /Do this/],
  ['a refusal', { end: notStarted('ENGINE_REFUSED') }, 'engine_refused', /Do this/],
  [
    'a full disk at the start',
    { end: notStarted('ENGINE_REFUSED', 'mkdir /x: no space left on device.') },
    'disk_full',
    /docker system prune/,
  ],
  [
    'a full disk',
    { lastWords: ['OSError: [Errno 28] No space left on device'] },
    'disk_full',
    /resources\.tmp/,
  ],
  [
    'a read-only root',
    { lastWords: ['touch: /x: Read-only file system'] },
    'confined',
    /allow\.writable_root/,
  ],
  [
    'no network',
    { lastWords: ['socket.gaierror: [Errno -3] Temporary failure in name resolution'] },
    'confined',
    /network: bridge/,
  ],
  [
    'too many threads',
    { lastWords: ["RuntimeError: can't start new thread"] },
    'confined',
    /resources\.processes/,
  ],
  [
    'too little shared memory',
    { end: exited(135), lastWords: ['DataLoader worker (pid 7) is killed by signal: Bus error.'] },
    'confined',
    /resources\.shared_memory/,
  ],
  [
    'no permission',
    { lastWords: ["PermissionError: [Errno 13] Permission denied: '/x'"] },
    'confined',
    /allow\.user/,
  ],
  [
    'no module',
    { lastWords: ["ModuleNotFoundError: No module named 'torch'"] },
    'dependency_missing',
    /No module named 'torch'/,
  ],
  [
    'no file',
    { lastWords: ["FileNotFoundError: [Errno 2] No such file or directory: '/models/a.gguf'"] },
    'file_missing',
    /a\.gguf.*MODELS_DIR/,
  ],
  ['SIGSEGV', { end: exited(139) }, 'crashed', /SIGSEGV/],
  ['SIGILL', { end: exited(132) }, 'crashed', /instructions/],
  ['SIGKILL from outside', { end: exited(137) }, 'killed', /docker kill/],
  ['SIGTERM from outside', { end: exited(143) }, 'killed', /SIGTERM/],
  [
    'another exit code',
    { end: exited(3), lastWords: ['boom', ' '] },
    'exited',
    /code 3; its last word was: boom/,
  ],
  [
    'an engine that was stopped',
    {
      end: {
        kind: 'exited',
        exit: { exitCode: 137, oomKilled: false, finishedAt: 0 },
        cause: 'The engine was restarted.',
      },
    },
    'engine_stopped',
    /The engine was restarted\. With live-restore/,
  ],
  ['an unknown end', { end: exited(null) }, 'exited', /said nothing on stderr/],
  ['exit 0 without a finish', { end: exited(0) }, 'no_finish', /"finish"/],
  ['its own word', { finish: said('the model is corrupt') }, 'reported', /the model is corrupt/],
  ['its own silence', { finish: { status: 'failed', error: null } }, 'reported', /without saying why/],
  ['a bad input', { finish: said('empty prompt', 'INVALID_INPUT') }, 'bad_input', /empty prompt/],
  ['a finish that was lost', { isInDoubt: true, end: exited(0) }, 'output_lost', /finish event never came/],
  ['lost output', { finish: completed, outputLost: true, end: exited(0) }, 'output_lost', /gap events/],
  ['a lost worker', { end: { kind: 'lost', detail: 'nobody knows it' } }, 'lost', /nobody knows it/],
  [
    'a lost session',
    { end: { kind: 'worker-ended', exit: null, detail: 'it was removed' } },
    'lost',
    /it was removed/,
  ],
  [
    'a session that crashed',
    { end: { kind: 'worker-ended', exit: { exitCode: 139, oomKilled: false, finishedAt: 0 }, detail: '' } },
    'crashed',
    /SIGSEGV/,
  ],
  ['a session that gave up', { end: { kind: 'given-up', detail: 'It gave up.' } }, 'given_up', /It gave up/],
  [
    'no acknowledgement',
    { end: { kind: 'unacknowledged', detail: 'Not a word.' } },
    'unacknowledged',
    /timeouts\.acknowledge \(4000 ms\)/,
  ],
  ['a slow start', { stopReason: 'start-timeout' }, 'start_timeout', /2000 ms of timeouts\.start/],
  [
    'a slow start for want of a network',
    { stopReason: 'start-timeout', lastWords: ['curl: (6) Could not resolve host: hub'] },
    'confined',
    /network: bridge/,
  ],
  [
    'too much time',
    { stopReason: 'timeout', lastWords: ['step 3 of 9'] },
    'run_timeout',
    /1000 ms of timeouts\.run.*step 3 of 9/,
  ],
  ['silence', { stopReason: 'silence' }, 'silence_timeout', /3000 ms of timeouts\.silence/],
]

describe('the diagnosis of a failure', () => {
  test.each(TABLE)('by %s', (_what, more, cause, says) => {
    const diagnosis = diagnose(attempt(more), spec)
    expect(diagnosis.cause).toBe(cause)
    expect(diagnosis.text).toMatch(says)
  })

  test('knows every cause', () => {
    expect(new Set(TABLE.map(([, , cause]) => cause))).toEqual(new Set(FAILURE_CAUSES))
  })

  test('names the limit that was in force', () => {
    const limited = { ...spec, limits: { ...spec.limits, memoryMb: 512 } }
    expect(diagnose(attempt({ end: exited(137, true) }), limited).text).toContain(
      '512 MB of resources.memory',
    )
  })

  test('is made of any output in no time', () => {
    const lines = Array.from({ length: 10 }, () => 'No such ENOENT Error: '.repeat(25))
    const start = performance.now()
    for (let n = 0; n < 100; n++) diagnose(attempt({ lastWords: lines }), spec)
    expect(performance.now() - start).toBeLessThan(1_000)
  })
})
