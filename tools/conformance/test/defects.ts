import type { FindingCode, GradeOptions, Limits } from '../src/index.ts'

/** A way to break the template. */
export interface Defect {
  readonly code: FindingCode
  readonly how: string
  readonly mode: 'one-off' | 'session'
  /** What stands in the template, and what stands there instead. */
  readonly edits: readonly (readonly [string, string])[]
  readonly limits?: Partial<Limits>
  readonly options?: Partial<GradeOptions>
}

const FINISH = '        emit("finish", self.id, **finish)\n'
const COMPLETED = '        return {"status": "completed"}\n'
const MAIN = '    signal.signal(signal.SIGTERM, stop)\n'
const CANCEL = `        if command["task_id"] in tasks:
            tasks[command["task_id"]].cancelled.set()
`

const ONE_OFF: readonly Omit<Defect, 'mode'>[] = [
  { code: 'NO_FINISH', how: 'never says finish', edits: [[FINISH, '']] },
  {
    code: 'CRASHED',
    how: 'dies of an exception',
    edits: [[COMPLETED, '        raise RuntimeError("no tensor")\n']],
  },
  {
    code: 'FAILED',
    how: 'does not do the task',
    edits: [[COMPLETED, '        return {"status": "failed", "error": "no weights"}\n']],
  },
  {
    code: 'WRONG_EXIT_CODE',
    how: 'exits with 3 after completing',
    edits: [['    task.run()\n', '    task.run()\n    sys.exit(3)\n']],
  },
  {
    code: 'HANGS_AFTER_FINISH',
    how: 'has a thread that keeps it',
    edits: [[MAIN, `${MAIN}    threading.Thread(target=time.sleep, args=(3600,)).start()\n`]],
    limits: { finishGraceMs: 1_000 },
  },
  {
    code: 'NEVER_ENDS',
    how: 'waits for ever in its task',
    edits: [[COMPLETED, '        time.sleep(3600)\n']],
    limits: { taskMs: 2_000 },
  },
  {
    code: 'AFTER_FINISH',
    how: 'tells its usage when all is over',
    edits: [[FINISH, `${FINISH}        emit("usage", self.id, tokens=3)\n`]],
  },
  {
    code: 'INVALID_JSON',
    how: 'prints a NaN',
    edits: [['emit("usage", self.id, tokens=tokens)', 'emit("usage", self.id, tokens=float("nan"))']],
  },
  {
    code: 'INVALID_FIELDS',
    how: 'tells its progress in percent',
    edits: [['progress=0.5', 'progress=50']],
  },
  {
    code: 'LINE_TOO_LONG',
    how: 'puts an image into a result',
    edits: [[COMPLETED, `        emit("result", self.id, value="x" * 1_500_000)\n${COMPLETED}`]],
  },
  {
    code: 'TOO_DEEP',
    how: 'gives a tree as its result',
    edits: [
      [COMPLETED, `        emit("result", self.id, value=json.loads("[" * 70 + "]" * 70))\n${COMPLETED}`],
    ],
  },
  {
    code: 'INVALID_UTF8',
    how: 'prints bytes',
    edits: [[COMPLETED, `        sys.stdout.buffer.write(b"caf\\xe9\\n")\n${COMPLETED}`]],
  },
  {
    code: 'NO_CONNECTION',
    how: 'begins without a greeting',
    edits: [['    emit("connection", status="connected")\n', '']],
  },
  {
    code: 'MISNAMED_EVENT',
    how: 'writes textDelta',
    edits: [['"text_delta"', '"textDelta"']],
  },
  {
    code: 'GLUED_EVENT',
    how: 'prints a progress bar without a newline',
    edits: [['        tokens = self.input', '        print("50 %", end="\\r")\n        tokens = self.input']],
  },
  {
    code: 'STRAY_OUTPUT',
    how: 'has a library that prints',
    edits: [
      ['        tokens = self.input', '        print("Using device: cpu")\n        tokens = self.input'],
    ],
  },
  {
    code: 'SILENT_UNTIL_END',
    how: 'does not flush',
    edits: [
      [', flush=True', ''],
      [MAIN, `${MAIN}    sys.stdout = open(1, "w", buffering=1_000_000)\n`],
    ],
    limits: { silenceMs: 1_500 },
    options: { input: { tokens: 4, interval: 0.5 }, longInput: { tokens: 4, interval: 0.5 } },
  },
  {
    code: 'IGNORES_SIGTERM',
    how: 'has no handler, as process 1',
    edits: [['SIGTERM, stop', 'SIGTERM, signal.SIG_IGN']],
    limits: { stopMs: 1_000 },
  },
  {
    code: 'SEQ_BROKEN',
    how: 'counts in a way of its own',
    edits: [['count += 1', 'count += 2']],
  },
  {
    code: 'FOREIGN_TASK',
    how: 'takes its task_id apart',
    edits: [['        self.id = task_id\n', '        self.id = task_id.split(".")[0]\n']],
  },
  {
    code: 'ARTIFACT_MISSING',
    how: 'writes its file elsewhere',
    edits: [['path="count.txt"', 'path="/tmp/count.txt"']],
  },
  {
    code: 'TEXT_DIFFERS',
    how: 'strips its whole text',
    edits: [['"".join(f"{index} "', '" ".join(f"{index}"']],
  },
  {
    code: 'LEAVES_PROCESSES',
    how: 'starts a daemon',
    edits: [[COMPLETED, `        subprocess.Popen(["sleep", "3600"], start_new_session=True)\n${COMPLETED}`]],
  },
  {
    code: 'CRASHES_ON_BAD_INPUT',
    how: 'does not look at its input',
    edits: [['except (TypeError, KeyError)', 'except ZeroDivisionError']],
  },
  {
    code: 'CANNOT_START',
    how: 'is not there',
    edits: [],
    options: { subject: { kind: 'image', image: 'never-built:latest', command: [] } },
  },
]

const SESSION: readonly Omit<Defect, 'mode'>[] = [
  {
    code: 'EXITED_BEFORE_READY',
    how: 'knows one task only',
    edits: [['        serve()\n', '        Task(None, {"tokens": 1, "interval": 0}, "/tmp").run()\n']],
  },
  {
    code: 'NEVER_READY',
    how: 'says READY',
    edits: [['"ready"', '"READY"']],
    limits: { taskMs: 2_000 },
  },
  {
    code: 'NOT_ACKNOWLEDGED',
    how: 'reads its input to the end first',
    edits: [['for line in sys.stdin:', 'for line in sys.stdin.readlines():']],
    limits: { ackMs: 1_000 },
  },
  {
    code: 'DIES_IN_TASK',
    how: 'ends with its task',
    edits: [[COMPLETED, '        os._exit(4)\n']],
  },
  {
    code: 'DIES_AFTER_TASK',
    how: 'exits when it has done one',
    edits: [[FINISH, `${FINISH}        os._exit(0)\n`]],
  },
  {
    code: 'CANNOT_GO_ON',
    how: 'stays cancelled',
    edits: [
      ['        self.cancelled = threading.Event()', '        self.cancelled = cancelled'],
      ['tasks = {}\n', 'tasks = {}\ncancelled = threading.Event()\n'],
      [
        'return {"status": "cancelled"}',
        'return {"status": "cancelled"} if tokens > 9 else {"status": "failed"}',
      ],
    ],
  },
  {
    code: 'CANCEL_IGNORED',
    how: 'does not read its input while it works',
    edits: [['threading.Thread(target=task.run, daemon=True).start()', 'task.run()']],
    limits: { stopMs: 1_000 },
  },
  {
    code: 'CANCEL_MISREPORTED',
    how: 'calls a cancelled task failed',
    edits: [['{"status": "cancelled"}', '{"status": "failed", "error": "interrupted"}']],
  },
  {
    code: 'DIES_ON_CANCEL',
    how: 'exits to cancel',
    edits: [['return {"status": "cancelled"}', 'os._exit(1)']],
  },
  {
    code: 'DIES_ON_LATE_CANCEL',
    how: 'does not expect a cancel to come late',
    edits: [
      [CANCEL, '        tasks[command["task_id"]].cancelled.set()\n'],
      [FINISH, `        del tasks[self.id]\n${FINISH}`],
    ],
  },
  {
    code: 'CANCELS_WRONG_TASK',
    how: 'cancels whatever comes next',
    edits: [
      [CANCEL, '        cancelled.set()\n'],
      ['tasks = {}\n', 'tasks = {}\ncancelled = threading.Event()\n'],
      ['self.cancelled.wait(self.input["interval"])', 'cancelled.wait(self.input["interval"])'],
    ],
  },
  {
    code: 'UNNAMED_TASK',
    how: 'names no task',
    edits: [['named = {} if task_id is None else', 'named = {} if True else']],
    options: { concurrency: 2 },
  },
  {
    code: 'NOT_CONCURRENT',
    how: 'does one at a time',
    edits: [
      ['tasks = {}\n', 'tasks = {}\nserial = threading.Lock()\n'],
      ['        emit("worker", self.id', '        serial.acquire()\n        emit("worker", self.id'],
      [FINISH, `${FINISH}        serial.release()\n`],
    ],
    options: { concurrency: 2, input: { tokens: 50, interval: 0.02 } },
  },
  {
    code: 'DIES_ON_UNKNOWN_COMMAND',
    how: 'knows four commands and no other',
    edits: [
      [
        '        os._exit(0)\n\n\ndef stop',
        '        os._exit(0)\n    else:\n        raise ValueError(kind)\n\n\ndef stop',
      ],
    ],
  },
  {
    code: 'IGNORES_SHUTDOWN',
    how: 'does not know shutdown',
    edits: [['elif kind == "shutdown"', 'elif kind == "exit"']],
    limits: { stopMs: 1_000 },
  },
  {
    code: 'IGNORES_END_OF_INPUT',
    how: 'waits for what will never come',
    edits: [['        hear(line)\n\n', '        hear(line)\n    time.sleep(3600)\n\n']],
    limits: { stopMs: 1_000 },
  },
  {
    code: 'DIES_ON_BAD_INPUT',
    how: 'takes a bad input for the end of the world',
    edits: [
      [
        '            finish = {"status": "failed"',
        '            os._exit(1)\n            finish = {"status": "failed"',
      ],
    ],
  },
]

export const DEFECTS: readonly Defect[] = [
  ...ONE_OFF.map((defect) => ({ ...defect, mode: 'one-off' as const })),
  ...SESSION.map((defect) => ({ ...defect, mode: 'session' as const })),
]
