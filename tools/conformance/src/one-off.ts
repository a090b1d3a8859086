import type { JsonValue } from '@gpu-service/tasks'
import type { Heard } from './hearing.ts'
import { judgeLines, judgeTasks, judgeWork } from './judge.ts'
import type { Limits } from './limits.ts'
import type { Notebook } from './notebook.ts'
import { remainingProcesses } from './remaining-processes.ts'
import type { Performer, Stage } from './stage.ts'

const KILLED = 137

export interface Examination {
  readonly stage: Stage
  readonly notebook: Notebook
  readonly limits: Limits
  readonly input: JsonValue
  /** Of tasks that are to be stopped. */
  readonly longInput: JsonValue
  /** The value by which the worker's processes are found; `null`: they cannot be. */
  readonly mark: string | null
}

/** Grades a worker that does one task and exits. */
export async function examineOneOff(examination: Examination): Promise<void> {
  const { stage, notebook, limits, input, longInput, mark } = examination
  await notebook.check('one-off: does its task and exits', async () => {
    const performer = await stage.startOneOff(input)
    try {
      await judgeRun(performer)
    } finally {
      await performer.remove()
    }
    return null
  })
  await notebook.check('one-off: ends on SIGTERM', async () => {
    const performer = await stage.startOneOff(longInput)
    try {
      return await stopInTheMiddle(performer)
    } finally {
      await performer.remove()
    }
  })
  await notebook.check('one-off: answers an input that it does not expect', async () => {
    const performer = await stage.startOneOff(null)
    try {
      const { hearing, runId } = performer
      await hearing.until(limits.taskMs, () => hearing.finished.has(runId))
      const { exit, exitCode, evidence } = hearing
      if (hearing.finished.has(runId)) return null
      if (exit === null)
        notebook.find('NEVER_ENDS', `The input null keeps it for more than ${seconds(limits.taskMs)}.`)
      else
        notebook.find(
          'CRASHES_ON_BAD_INPUT',
          `With the input null it ends with ${codeText(exitCode)} and no finish.${evidence}`,
        )
    } finally {
      await performer.remove()
    }
    return null
  })

  async function judgeRun(performer: Performer & { readonly runId: string }): Promise<void> {
    const { hearing, runId } = performer
    const isFinished = await hearing.until(limits.taskMs, () => hearing.finished.has(runId))
    const finish = hearing.finished.get(runId)
    if (isFinished) await hearing.ended(limits.finishGraceMs)
    const { exit, evidence } = hearing
    if (exit === null) {
      if (finish)
        notebook.find(
          'HANGS_AFTER_FINISH',
          `It has not exited ${seconds(limits.finishGraceMs)} after its finish.`,
        )
      else
        notebook.find(
          'NEVER_ENDS',
          `It has neither finished nor exited after ${seconds(limits.taskMs)}.${evidence}`,
        )
      await performer.stop(limits.stopMs)
    } else {
      judgeEnd(finish, exit.exitCode, evidence)
      await judgeRemains()
    }
    judgeLines(notebook, hearing)
    judgeTasks(notebook, hearing)
    await judgeWork(notebook, hearing, {
      runId,
      folder: performer.outputFolder(runId),
      silenceMs: limits.silenceMs,
    })
    const [first] = hearing.heard
    if (first) notebook.figure('first event of a one-off worker', first.at - hearing.startedAt)
    if (exit) notebook.figure('its whole life', exit.finishedAt - hearing.startedAt)
  }

  function judgeEnd(finish: Heard | undefined, exitCode: number | null, evidence: string): void {
    if (finish === undefined) {
      if (exitCode === 0)
        notebook.find(
          'NO_FINISH',
          `It has exited with code 0, but never printed a finish that counts.${evidence}`,
        )
      else notebook.find('CRASHED', `It has ended with ${codeText(exitCode)} and no finish.${evidence}`)
    } else if (finish.event.type === 'finish' && finish.event.status === 'completed') {
      if (exitCode !== 0)
        notebook.find(
          'WRONG_EXIT_CODE',
          `After finish completed it has ended with ${codeText(exitCode)}.${evidence}`,
        )
    } else {
      notebook.find('FAILED', `It says that its task has not been done: ${finishText(finish)}.${evidence}`)
    }
  }

  async function judgeRemains(): Promise<void> {
    if (mark === null) return
    const remaining = await remainingProcesses(mark)
    if (remaining.length > 0)
      notebook.find('LEAVES_PROCESSES', `After its exit there still ran: ${remaining.join(', ')}.`)
  }

  async function stopInTheMiddle(performer: Performer): Promise<string | null> {
    const { hearing } = performer
    await hearing.until(limits.taskMs, () => hearing.heard.length > 0)
    if (hearing.exit !== null || hearing.finished.size > 0)
      return 'its task was over before a signal could come; give a --long-input that takes some seconds'
    const tookMs = await performer.stop(limits.stopMs)
    // What it was just printing may be cut short, and is not judged.
    judgeStop(notebook, hearing.exitCode, tookMs, limits)
    return null
  }
}

/** Looks at how a worker has ended that was stopped. */
export function judgeStop(
  notebook: Notebook,
  exitCode: number | null,
  tookMs: number,
  { stopMs }: Limits,
): void {
  if (exitCode === KILLED && tookMs >= stopMs)
    notebook.find('IGNORES_SIGTERM', `${seconds(stopMs)} after SIGTERM it still ran and had to be killed.`)
  else notebook.figure('from SIGTERM to the end', tookMs)
}

export function finishText({ event }: Heard): string {
  if (event.type !== 'finish') return event.type
  const { status, error } = event
  return error === null
    ? status
    : `${status}, ${error.code === null ? '' : `${error.code}: `}${error.message}`
}

export function codeText(exitCode: number | null): string {
  return exitCode === null ? 'an unknown exit code' : `exit code ${exitCode}`
}

export function seconds(ms: number): string {
  return `${ms / 1_000} s`
}
