import type { Heard, Hearing } from './hearing.ts'
import { judgeLines, judgeTasks, judgeWork } from './judge.ts'
import { codeText, type Examination, finishText, judgeStop, seconds } from './one-off.ts'
import type { SessionPerformer } from './stage.ts'

export interface SessionExamination extends Examination {
  /** How many tasks it is to do at a time. */
  readonly concurrency: number
}

/** So long several tasks must have been there together before it is asked why one was not begun. */
const OVERLAP_MS = 500

/** Whether a worker becomes ready as a session; the other findings about that are left to `examineSession`. */
export async function isSession({ stage, limits }: Examination): Promise<boolean> {
  const session = await stage.startSession()
  try {
    return await session.hearing.until(limits.taskMs, () => session.hearing.isReady)
  } finally {
    await session.remove()
  }
}

/** Grades a worker that stays and takes one task after the other; `false` where it does not come so far. */
export async function examineSession(examination: SessionExamination): Promise<boolean> {
  const { stage, notebook, limits, input, longInput, concurrency } = examination
  const sessions: SessionPerformer[] = []
  /** Each is found out about in the same process as long as that lives. */
  let current: SessionPerformer | null = null
  const course = { isUsable: false }

  try {
    await notebook.check('session: becomes ready', async () => {
      const session = await start()
      if (session === null) return null
      current = session
      const { hearing } = session
      const ready = hearing.heard.find(({ event }) => event.type === 'worker' && event.status === 'ready')
      if (ready) notebook.figure('from the start to ready', ready.at - hearing.startedAt)
      return null
    })
    if (!notebook.isClean) return false
    await notebook.check('session: does a task and then the next one', takesTwo)
    // What cannot do that would fail at all the rest.
    if (!course.isUsable) return false
    await notebook.check('session: passes over a cancel of a task that has ended', lateCancel)
    await notebook.check('session: cancels a task and lives on', cancelTask)
    await notebook.check('session: answers an input that it does not expect, and lives on', badInput)
    await notebook.check(`session: does ${concurrency} tasks at a time`, concurrently)
    await notebook.check('session: ends on shutdown', shutdown)
    await notebook.check('session: ends on SIGTERM', sigterm)
    return true
  } finally {
    for (const session of sessions) await session.remove()
  }

  /** A ready one; `null` where there is none to be had, which has been taken down. */
  async function start(): Promise<SessionPerformer | null> {
    const session = await stage.startSession()
    sessions.push(session)
    const { hearing } = session
    if (await hearing.until(limits.taskMs, () => hearing.isReady)) return session
    if (hearing.exit !== null) {
      const hasWorked = hearing.heard.some(({ event }) => event.type === 'finish')
      const how = hasWorked ? 'It has done a task that nobody gave it and exited' : 'It has exited'
      notebook.find(
        'EXITED_BEFORE_READY',
        `${how}, with ${codeText(hearing.exit.exitCode)}.${hearing.evidence}`,
      )
    } else {
      const said = hearing.heard.map(({ event }) =>
        'status' in event ? `${event.type} ${event.status}` : event.type,
      )
      const heard = said.length === 0 ? 'nothing' : said.slice(-3).join(', ')
      notebook.find('NEVER_READY', `After ${seconds(limits.taskMs)} it has said ${heard}.${hearing.evidence}`)
      await session.stop(limits.stopMs)
    }
    judgeLines(notebook, hearing)
    return null
  }

  /** The one at hand where it lives, else another. */
  async function alive(): Promise<SessionPerformer | null> {
    if (current?.hearing.exit !== null) current = await start()
    return current
  }

  /** It is of no use any more. */
  async function giveUp(session: SessionPerformer): Promise<void> {
    current = null
    await session.stop(limits.stopMs)
  }

  /** Does a task to its finish; `null` where there is none, which has been taken down. */
  async function work(session: SessionPerformer, runId: string): Promise<Heard | null> {
    const { hearing } = session
    if (!(await isAcknowledged(session, runId))) return null
    await hearing.until(limits.taskMs, () => hearing.finished.has(runId))
    const finish = hearing.finished.get(runId)
    if (finish === undefined) {
      if (hearing.exit !== null) notebook.find('DIES_IN_TASK', died(hearing))
      else {
        notebook.find('NEVER_ENDS', `It has not finished a task after ${seconds(limits.taskMs)}.`)
        await giveUp(session)
      }
      return null
    }
    notebook.figure('a task, from run to finish', finish.at - (hearing.given.get(runId) ?? 0))
    return finish
  }

  async function isAcknowledged(session: SessionPerformer, runId: string): Promise<boolean> {
    const { hearing } = session
    await hearing.until(limits.ackMs, () => hearing.of(runId).length > 0)
    const [first] = hearing.of(runId)
    if (first !== undefined) {
      notebook.figure('from run to its acknowledgement', first.at - (hearing.given.get(runId) ?? 0))
      return true
    }
    if (hearing.exit !== null) notebook.find('DIES_IN_TASK', died(hearing))
    else {
      notebook.find(
        'NOT_ACKNOWLEDGED',
        `${seconds(limits.ackMs)} after run it has not said a word of the task.`,
      )
      await giveUp(session)
    }
    return false
  }

  async function takesTwo(): Promise<null> {
    const session = await alive()
    if (session === null) return null
    const { hearing } = session
    const first = await session.run(input)
    const finish = await work(session, first)
    if (finish === null) {
      judge(session)
      return null
    }
    if (!isCompleted(finish))
      notebook.find(
        'FAILED',
        `It says that its task has not been done: ${finishText(finish)}.${hearing.evidence}`,
      )
    const folder = session.outputFolder(first)
    await judgeWork(notebook, hearing, { runId: first, folder, silenceMs: limits.silenceMs })
    course.isUsable = await goesOn(session, 'DIES_AFTER_TASK')
    judge(session)
    return null
  }

  /** Sees whether it can do another task, and takes down where it cannot. */
  async function goesOn(
    session: SessionPerformer,
    deadCode: 'DIES_AFTER_TASK' | 'DIES_ON_CANCEL' | 'DIES_ON_LATE_CANCEL' | 'DIES_ON_BAD_INPUT',
  ): Promise<boolean> {
    const { hearing } = session
    const runId = await session.run(input)
    await hearing.until(limits.taskMs, () => hearing.finished.has(runId))
    const finish = hearing.finished.get(runId)
    if (hearing.exit !== null) notebook.find(deadCode, died(hearing))
    else if (finish === undefined) {
      notebook.find(
        'CANNOT_GO_ON',
        `It does not finish the task that follows within ${seconds(limits.taskMs)}.`,
      )
      await giveUp(session)
    } else if (isCancelled(finish)) {
      notebook.find('CANCELS_WRONG_TASK', 'It has cancelled a task that no cancel has named.')
    } else if (deadCode !== 'DIES_AFTER_TASK' && !isCompleted(finish)) {
      notebook.find(
        'CANNOT_GO_ON',
        `The task that follows ends with ${finishText(finish)}.${hearing.evidence}`,
      )
    } else return true
    return false
  }

  async function lateCancel(): Promise<string | null> {
    const session = await alive()
    if (session === null) return 'there is no session any more'
    const runId = await session.run(input)
    if ((await work(session, runId)) === null) return null
    await session.cancel(runId)
    await goesOn(session, 'DIES_ON_LATE_CANCEL')
    judge(session)
    return null
  }

  async function cancelTask(): Promise<string | null> {
    const session = await alive()
    if (session === null) return 'there is no session any more'
    const { hearing } = session
    const runId = await session.run(longInput)
    if (!(await isAcknowledged(session, runId))) return null
    await session.cancel(runId)
    const cancelledAt = Date.now()
    await hearing.until(limits.stopMs, () => hearing.finished.has(runId))
    const finish = hearing.finished.get(runId)
    if (hearing.exit !== null) {
      notebook.find('DIES_ON_CANCEL', died(hearing))
      return null
    }
    if (finish === undefined) {
      notebook.find('CANCEL_IGNORED', `${seconds(limits.stopMs)} after cancel the task still goes on.`)
      await giveUp(session)
      return null
    }
    if (isCompleted(finish))
      return 'its task was over before a cancel could come; give a --long-input that takes longer than 10 s'
    if (!isCancelled(finish))
      notebook.find('CANCEL_MISREPORTED', `After cancel it says: ${finishText(finish)}.`)
    else notebook.figure('from cancel to finish', finish.at - cancelledAt)
    await goesOn(session, 'DIES_ON_CANCEL')
    judge(session)
    return null
  }

  async function badInput(): Promise<string | null> {
    const session = await alive()
    if (session === null) return 'there is no session any more'
    const { hearing } = session
    const runId = await session.run(null)
    await hearing.until(limits.taskMs, () => hearing.finished.has(runId))
    if (hearing.exit !== null) notebook.find('DIES_ON_BAD_INPUT', died(hearing))
    else if (!hearing.finished.has(runId)) {
      notebook.find(
        'NEVER_ENDS',
        `A task with the input null has not finished after ${seconds(limits.taskMs)}.`,
      )
      await giveUp(session)
    } else await goesOn(session, 'DIES_ON_BAD_INPUT')
    return null
  }

  async function concurrently(): Promise<string | null> {
    if (concurrency < 2) return 'it is to do one at a time; say otherwise with --concurrency N'
    const session = await alive()
    if (session === null) return 'there is no session any more'
    const { hearing } = session
    const runIds: string[] = []
    for (let count = 0; count < concurrency; count += 1) runIds.push(await session.run(input))
    const isAmbiguous = (): boolean => hearing.heard.some((heard) => heard.isAmbiguous)
    await hearing.until(limits.ackMs, () => isAmbiguous() || runIds.every((id) => hearing.of(id).length > 0))
    if (isAmbiguous()) {
      // Nobody can tell what becomes of which.
      judge(session)
      await giveUp(session)
      return null
    }
    for (const runId of runIds) if ((await work(session, runId)) === null) break
    const { heard } = hearing
    const lastBegun = Math.max(...runIds.map((runId) => heard.findIndex(({ owner }) => owner === runId)))
    const [firstFinish] = heard.filter(
      ({ event, owner }) => event.type === 'finish' && runIds.includes(owner ?? ''),
    )
    const given = Math.max(...runIds.map((runId) => hearing.given.get(runId) ?? 0))
    // By their order: what is read at once has one time. Where one was over before the others were given there is nothing to see.
    const isSerial = firstFinish !== undefined && heard.indexOf(firstFinish) < lastBegun
    if (notebook.isClean && isSerial && firstFinish.at - given > OVERLAP_MS)
      notebook.find('NOT_CONCURRENT', 'It says nothing of a task before it has finished another.')
    judge(session)
    return null
  }

  async function shutdown(): Promise<string | null> {
    const session = await alive()
    if (session === null) return 'there is no session any more'
    const { hearing } = session
    await session.shutdown()
    if (!(await hearing.ended(limits.stopMs))) {
      notebook.find('IGNORES_SHUTDOWN', `${seconds(limits.stopMs)} after shutdown it still runs.`)
      await giveUp(session)
    } else if (hearing.exit?.exitCode !== 0) {
      notebook.find(
        'WRONG_EXIT_CODE',
        `After shutdown it has ended with ${codeText(hearing.exitCode)}.${hearing.evidence}`,
      )
    }
    judge(session)
    return null
  }

  async function sigterm(): Promise<null> {
    const session = await start()
    if (session === null) return null
    const tookMs = await session.stop(limits.stopMs)
    judgeStop(notebook, session.hearing.exitCode, tookMs, limits)
    return null
  }

  function judge({ hearing }: SessionPerformer): void {
    judgeLines(notebook, hearing)
    judgeTasks(notebook, hearing)
  }
}

function died({ exit, evidence }: Hearing): string {
  return `It has ended, with ${codeText(exit?.exitCode ?? null)}.${evidence}`
}

function isCompleted({ event }: Heard): boolean {
  return event.type === 'finish' && event.status === 'completed'
}

function isCancelled({ event }: Heard): boolean {
  return event.type === 'finish' && event.status === 'cancelled'
}
