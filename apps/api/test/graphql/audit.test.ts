import type { AuditEntry } from '@gpu-service/tasks'
import { describe, expect, it } from 'vitest'
import { ADA, createStage, GPU_ID, PRESET_ID, task, TASK_ID, WORKER_ID } from './stage.ts'

const entry = (seq: number): AuditEntry => ({
  ...{ seq, at: 1_000, actor: ADA, action: 'gpu.drain', target: { kind: 'gpu', id: GPU_ID }, result: 'OK' },
  ...{
    status: null,
    reason: 'dust',
    details: { a: 'b' },
    previousHash: '0'.repeat(64),
    hash: '1'.repeat(64),
  },
})

describe('auditLog', () => {
  it('gives the entries that match, a page at a time', async () => {
    const asked: unknown[] = []
    const stage = createStage({
      store: {
        auditLog(query) {
          asked.push(query)
          return Promise.resolve({ entries: [entry(9), entry(8)], hasNextPage: true })
        },
      },
    })
    const answer = await stage.ask(`{
      auditLog(first: 2, after: "10", filter: { action: "gpu.drain", after: "1970-01-01T00:00:00Z", targetId: "GPU-1" }) {
        edges { cursor node { seq at actor { kind id name address } action targetKind targetId result status reason details hash previousHash } }
        pageInfo { hasNextPage endCursor }
      }
    }`)
    expect(asked).toEqual([
      { filter: { action: 'gpu.drain', after: 0, targetId: 'GPU-1' }, first: 2, before: 10 },
    ])
    expect(answer).toMatchObject({
      auditLog: {
        edges: [
          {
            cursor: '9',
            node: {
              ...{ seq: 9, at: '1970-01-01T00:00:01.000Z', actor: ADA, targetKind: 'gpu', targetId: 'GPU-1' },
              details: { a: 'b' },
            },
          },
          { cursor: '8' },
        ],
        pageInfo: { hasNextPage: true, endCursor: '8' },
      },
    })
  })

  it('gives nothing behind what is no cursor, and refuses a page that is too long', async () => {
    const befores: unknown[] = []
    const { ask } = createStage({
      store: {
        auditLog({ before }) {
          befores.push(before)
          return Promise.resolve({ entries: [], hasNextPage: false })
        },
      },
    })
    await ask('{ auditLog(after: "x") { pageInfo { endCursor } } }')
    expect(befores).toEqual([0])
    expect(await ask('{ auditLog(first: 201) { pageInfo { endCursor } } }')).toEqual([
      'BAD_USER_INPUT: first must lie between 1 and 200.',
    ])
  })
})

describe('auditVerification', () => {
  it('asks for the stretch, with the head that was kept', async () => {
    const hash = 'a'.repeat(64)
    const asked: unknown[] = []
    const { ask } = createStage({
      store: {
        verifyAudit(stretch) {
          asked.push(stretch)
          const head = { seq: 5, hash }
          const fault = { seq: 6, message: 'It is gone.' }
          return Promise.resolve({ entries: 3, head, anchor: { seq: 2, hash }, fault })
        },
      },
    })
    const query = `{ auditVerification(after: 2, first: 3, head: "5:${hash}") { ok entries head { seq hash } anchor { seq } fault { seq message } } }`
    expect(await ask(query)).toEqual({
      auditVerification: {
        ...{ ok: false, entries: 3, head: { seq: 5, hash }, anchor: { seq: 2 } },
        fault: { seq: 6, message: 'It is gone.' },
      },
    })
    expect(asked).toEqual([{ after: 2, first: 3, kept: { seq: 5, hash } }])
    expect(await ask('{ auditVerification(head: "5") { ok } }')).toEqual([
      expect.stringContaining('BAD_USER_INPUT: head must be of the form'),
    ])
  })
})

describe('the audit log is told', () => {
  const done = (changes: object) => ({ actor: ADA, status: null, reason: null, details: {}, ...changes })

  it('what was refused, with its code and who asked', async () => {
    const refused = { status: 'refused', code: 'NOT_ENDED', message: 'no' } as const
    const { ask, audit } = createStage({
      dispatcher: {
        submit: () => Promise.resolve({ status: 'unknown-preset', index: 0, message: 'no' }),
        deleteTask: () => Promise.resolve(refused),
        cancel: () => Promise.resolve(null),
        endSession: () => Promise.resolve(null),
      },
    })
    await ask('mutation { submitTask(input: { presetId: "no/such", input: "a secret" }) { __typename } }')
    await ask('mutation { submitTask(input: { presetId: "a/b", priority: 9000000 }) { __typename } }')
    await ask('mutation { submitTasks(inputs: []) { __typename } }')
    await ask(`mutation { deleteTask(id: "${TASK_ID}") { __typename } }`)
    await ask('mutation { cancelTask(id: "x", reason: "why not") { __typename } }')
    await ask('mutation { cancelTasks(filter: {}) { count } }')
    await ask(`mutation { endSession(id: "${WORKER_ID}") { __typename } }`)
    const noTask = { kind: 'task', id: null }
    expect(audit).toEqual([
      done({
        action: 'task.submit',
        target: noTask,
        result: 'UNKNOWN_PRESET',
        details: { presetId: 'no/such' },
      }),
      done({ action: 'task.submit', target: noTask, result: 'INVALID_INPUT', details: { presetId: 'a/b' } }),
      done({ action: 'task.submit', target: noTask, result: 'BAD_USER_INPUT' }),
      done({ action: 'task.remove', target: { kind: 'task', id: TASK_ID }, result: 'NOT_ENDED' }),
      done({
        action: 'task.cancel',
        target: { kind: 'task', id: 'x' },
        result: 'UNKNOWN_TASK',
        reason: 'why not',
      }),
      done({ action: 'tasks.cancel', target: noTask, result: 'BAD_USER_INPUT' }),
      done({ action: 'worker.end', target: { kind: 'worker', id: WORKER_ID }, result: 'UNKNOWN_WORKER' }),
    ])
    expect(JSON.stringify(audit)).not.toContain('a secret')
  })

  it('of a submission that had been made before, and of what is done outside the store', async () => {
    const actors: unknown[] = []
    const { ask, audit } = createStage({
      dispatcher: {
        submit(_requests, by) {
          actors.push(by)
          return Promise.resolve({ status: 'submitted', tasks: [{ task: task(), duplicate: true }] })
        },
      },
      presets: {
        reload: () => Promise.resolve({ status: 'reloaded', diff: { added: [], changed: [], removed: [] } }),
        presets: () => [],
      },
    })
    await ask(`mutation { submitTask(input: { presetId: "${PRESET_ID}" }) { __typename } }`)
    await ask('mutation { reloadPresets { __typename } }')
    expect(audit).toEqual([
      done({
        ...{ action: 'task.submit', target: { kind: 'task', id: TASK_ID }, result: 'DUPLICATE' },
        details: { presetId: PRESET_ID },
      }),
      done({ action: 'presets.reload', target: { kind: 'presets', id: null }, result: 'OK' }),
    ])
    expect(actors).toEqual([ADA])
  })

  it('nothing here of what is recorded where it is stored, and of what is only read', async () => {
    const { ask, audit } = createStage({
      dispatcher: {
        submit: () => Promise.resolve({ status: 'submitted', tasks: [{ task: task(), duplicate: false }] }),
      },
      store: { task: () => Promise.resolve(null) },
    })
    await ask(`mutation { submitTask(input: { presetId: "${PRESET_ID}" }) { __typename } }`)
    await ask('{ task(id: "x") { id } }')
    expect(audit).toEqual([])
  })

  it('or the mutation fails', async () => {
    const { ask } = createStage({
      dispatcher: { cancel: () => Promise.resolve(null) },
      store: { recordAudit: () => Promise.reject(new Error('The disk is full.')) },
    })
    expect(await ask('mutation { cancelTask(id: "x") { __typename } }')).toEqual([
      'undefined: The disk is full.',
    ])
  })
})
