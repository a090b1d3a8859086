interface Kind {
  /** A `defect` is against the protocol, and tasks suffer from it; an `advice` is neither. */
  readonly severity: 'defect' | 'advice'
  /** How to mend it. */
  readonly mend: string
}

/** What can be wrong with a worker. */
export const FINDINGS = {
  CANNOT_START: {
    severity: 'defect',
    mend: 'Check the image or the command: it must start as it stands, without arguments of yours.',
  },
  // Lines
  INVALID_JSON: {
    severity: 'defect',
    mend: 'Make events with a JSON library, each in one write; only one thread or process may write at a time. NaN is no JSON.',
  },
  INVALID_FIELDS: {
    severity: 'defect',
    mend: 'See the table of events in PROTOCOL.md: required fields must be there and of the right type, or the event does not count.',
  },
  LINE_TOO_LONG: {
    severity: 'defect',
    mend: 'Write large outputs into a file in OUTPUT_DIR and announce it as an artifact; cut long texts into several text_delta.',
  },
  TOO_DEEP: { severity: 'defect', mend: 'Nest results less than 64 deep, or write them into an artifact.' },
  INVALID_UTF8: { severity: 'defect', mend: 'Write UTF-8, or ASCII with \\u escapes.' },
  GLUED_EVENT: {
    severity: 'defect',
    mend: 'Something prints to standard output without a newline, and the event behind it is lost. Send what libraries print to standard error; the SDKs do.',
  },
  STRAY_OUTPUT: {
    severity: 'advice',
    mend: 'It becomes a log line of the task. Send what libraries print to standard error; the SDKs do.',
  },
  MISNAMED_EVENT: {
    severity: 'defect',
    mend: 'Names of events are written as they stand in PROTOCOL.md, in lower case with underscores; any other is a custom event.',
  },
  SEQ_BROKEN: {
    severity: 'defect',
    mend: 'Count every event of the process from 1, without holes and in the order of printing, or leave seq out of all: a hole forbids COMPLETED.',
  },
  NO_SEQ: {
    severity: 'advice',
    mend: 'Give every event its place as `seq`: 1, 2, 3, … Then the service sees where output was lost on the way, and need not suspect it.',
  },
  NO_CONNECTION: {
    severity: 'advice',
    mend: 'Print {"event": "connection", "status": "connected"} first, before heavy imports.',
  },
  SILENT_UNTIL_END: {
    severity: 'defect',
    mend: 'Flush after every event (print(…, flush=True)), and say something while you work: connection, loading, progress.',
  },
  // The end of a task
  NO_FINISH: {
    severity: 'defect',
    mend: 'End every task with {"event": "finish", "status": "completed"}, or "failed" with an error; flush it before the exit.',
  },
  CRASHED: {
    severity: 'defect',
    mend: 'Catch errors and print finish with "failed" and an error, so that people see what was wrong.',
  },
  FAILED: {
    severity: 'defect',
    mend: 'Give an input that it can do, with --input FILE, and what else it needs, with --env NAME=VALUE and --models FOLDER.',
  },
  WRONG_EXIT_CODE: {
    severity: 'defect',
    mend: 'Exit with 0 after finish completed: other codes are kept as a warning.',
  },
  HANGS_AFTER_FINISH: {
    severity: 'defect',
    mend: 'Exit right after the finish; threads and child processes must not keep the process. The GPU is held until it is gone.',
  },
  NEVER_ENDS: {
    severity: 'defect',
    mend: 'Every task ends with a finish. Where this input just takes long, give a smaller one or a longer --timeout.',
  },
  AFTER_FINISH: {
    severity: 'defect',
    mend: 'finish is the last event of a task; say usage and results before it.',
  },
  TEXT_DIFFERS: {
    severity: 'advice',
    mend: 'text is the whole output and takes the place of all text_delta: both should say the same.',
  },
  ARTIFACT_MISSING: {
    severity: 'defect',
    mend: 'Write the file into OUTPUT_DIR (of a session: the output_dir of the run command) before it is announced, and give its path in there.',
  },
  // Which task
  FOREIGN_TASK: {
    severity: 'defect',
    mend: 'Repeat task_id as it stands in TASK_ID or in the run command, whole and unchanged.',
  },
  UNNAMED_TASK: {
    severity: 'defect',
    mend: 'A worker with several tasks at once puts task_id into every event of a task.',
  },
  NOT_CONCURRENT: {
    severity: 'advice',
    mend: 'Acknowledge each task at once, with any event of it; or set max_concurrency of the preset to 1.',
  },
  // Signals and commands
  IGNORES_SIGTERM: {
    severity: 'defect',
    mend: 'End on SIGTERM. A shell must `exec` the worker; process 1 of a container needs a handler, as it has none by default.',
  },
  LEAVES_PROCESSES: {
    severity: 'defect',
    mend: 'End what you have started before you exit, daemons of libraries too: they may hold GPU memory.',
  },
  EXITED_BEFORE_READY: {
    severity: 'defect',
    mend: 'A session worker without INPUT_FILE in its environment loads, says ready and waits for commands on its standard input.',
  },
  NEVER_READY: {
    severity: 'defect',
    mend: 'Print {"event": "worker", "status": "ready"} when a task can be taken, flushed. Where loading takes long, give a longer --timeout.',
  },
  NOT_ACKNOWLEDGED: {
    severity: 'defect',
    mend: 'Print any event of the task as soon as its run command is read, for instance worker working; read standard input line by line, without buffering.',
  },
  DIES_IN_TASK: {
    severity: 'defect',
    mend: 'A session worker lives on after a task: catch what a task raises, print finish failed and read the next command.',
  },
  DIES_AFTER_TASK: { severity: 'defect', mend: 'Read the next command after a finish, instead of exiting.' },
  CANNOT_GO_ON: {
    severity: 'defect',
    mend: 'Each task begins anew: nothing of an earlier one, also of a cancelled or failed one, may be in its way.',
  },
  CANCEL_IGNORED: {
    severity: 'defect',
    mend: 'Read standard input while you work (a thread of its own), and stop the task that a cancel names within some seconds.',
  },
  CANCEL_MISREPORTED: {
    severity: 'defect',
    mend: 'A cancelled task ends with {"event": "finish", "status": "cancelled"}.',
  },
  DIES_ON_CANCEL: { severity: 'defect', mend: 'A cancel ends the task, not the worker.' },
  DIES_ON_LATE_CANCEL: {
    severity: 'defect',
    mend: 'A cancel may cross the finish of its task on the way: pass over one for a task that you do not have.',
  },
  CANCELS_WRONG_TASK: {
    severity: 'defect',
    mend: 'Stop the task that the cancel names in task_id, and no other.',
  },
  DIES_ON_UNKNOWN_COMMAND: {
    severity: 'defect',
    mend: 'Pass over commands and fields that you do not know: later versions of the protocol have more.',
  },
  IGNORES_SHUTDOWN: {
    severity: 'defect',
    mend: 'Clean up and exit on the command shutdown. A thread that reads standard input must not keep the process.',
  },
  IGNORES_END_OF_INPUT: {
    severity: 'advice',
    mend: 'Finish what you have and exit when standard input ends: whoever would send more is gone.',
  },
  DIES_ON_BAD_INPUT: {
    severity: 'defect',
    mend: 'Answer an input that you do not expect with finish failed and the code INVALID_INPUT: others have tasks in the same worker.',
  },
  CRASHES_ON_BAD_INPUT: {
    severity: 'advice',
    mend: 'Answer an input that you do not expect with finish failed and the code INVALID_INPUT: such a task is not tried again.',
  },
} as const satisfies Record<string, Kind>

export type FindingCode = keyof typeof FINDINGS

/** Something that was found. */
export interface Finding {
  readonly code: FindingCode
  readonly severity: 'defect' | 'advice'
  /** What was being looked at. */
  readonly check: string
  /** What was seen, for a person. */
  readonly what: string
  readonly mend: string
}

/** One thing that was looked at. */
export interface Check {
  readonly name: string
  /** Why it says nothing, where it does not. */
  readonly notJudged: string | null
  readonly findings: readonly Finding[]
}

/** How long something took, in milliseconds. */
export interface Figure {
  readonly name: string
  readonly ms: number
}
