import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { openTaskStore } from '@gpu-service/task-store'
import { LOCAL, silentLogger, type Actor, type Clock } from '@gpu-service/tasks'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { createAuthenticator, type Authenticator, type Origin } from '../../src/access/authenticator.ts'
import { openKeyRing, type KeyRing, type NewKey } from '../../src/access/key-ring.ts'
import { newKeyText, parseKeyText } from '../../src/access/key-text.ts'
import { createMeters } from '../../src/access/meters.ts'
import { problemOfNewKey } from '../../src/access/new-key.ts'

const HOUR = 3_600_000
const ANN: Actor = { kind: 'key', id: 'k', name: 'ann', address: '10.0.0.2' }

/** A clock that stands until it is told to go on. */
class Standing implements Pick<Clock, 'now' | 'monotonic'> {
  at = Date.UTC(2026, 10, 26)
  now = (): number => this.at
  monotonic = (): number => this.at
}

describe('the text of a key', () => {
  test('is read back, and tells when a letter of it is wrong or missing', () => {
    const { id, secret, text } = newKeyText()
    expect(parseKeyText(text)).toEqual({ id, secret })
    expect(secret).toMatch(/^[0-9a-f]{64}$/)
    for (let at = 0; at < text.length; at++) {
      const wrong = text[at] === '1' ? '2' : '1'
      expect(parseKeyText(text.slice(0, at) + wrong + text.slice(at + 1))).toBeNull()
      expect(parseKeyText(text.slice(0, at) + text.slice(at + 1))).toBeNull()
    }
  })

  test.each(['', 'gpu', `gpu_${'a'.repeat(12)}_${'b'.repeat(64)}_${'c'.repeat(8)}`, 'x'.repeat(100_000)])(
    'is not %#',
    (text) => {
      expect(parseKeyText(text)).toBeNull()
    },
  )
})

describe('keys', () => {
  const clock = new Standing()
  let folder: string
  let keys: KeyRing
  let close: () => Promise<void>

  async function open(): Promise<void> {
    const store = await openTaskStore({ url: `file:${join(folder, 'keys.db')}`, logger: silentLogger })
    keys = await openKeyRing(store, clock as unknown as Clock, silentLogger)
    close = async () => {
      await keys[Symbol.asyncDispose]()
      await store[Symbol.asyncDispose]()
    }
  }
  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), 'keys-'))
    await open()
  })
  afterEach(async () => {
    await close()
    await rm(folder, { recursive: true })
  })

  const made = (more: Partial<NewKey> = {}) =>
    keys.create(
      {
        name: 'frontend',
        owner: 'acme',
        role: 'submit',
        presets: null,
        limits: {},
        expiresAt: null,
        ...more,
      },
      ANN,
    )
  const whose = (text: string) => keys.find(text, '10.0.0.1')?.principal ?? null

  test('let their holder in, also after a restart, and only whole', async () => {
    const { key, text } = await made()
    const other = await made()
    const expected = { kind: 'key', id: key.id, owner: 'acme', role: 'submit', presets: null, taskId: null }
    expect(whose(text)).toMatchObject(expected)
    expect(whose(`gpu_${key.id}_${parseKeyText(other.text)?.secret ?? ''}_00000000`)).toBeNull()
    await close()
    await open()
    expect(whose(text)).toMatchObject(expected)
    expect(whose(other.text)).toMatchObject({ id: other.key.id })
  })

  test('are kept without their secret', async () => {
    const { text } = await made()
    const secret = parseKeyText(text)?.secret ?? ''
    expect(JSON.stringify(keys.list())).not.toContain(secret)
    await close()
    const { readFile } = await import('node:fs/promises')
    expect((await readFile(join(folder, 'keys.db'))).includes(secret)).toBe(false)
    await open()
  })

  test('say when and from where they were last used', async () => {
    const { key, text } = await made()
    expect(keys.list()).toMatchObject([{ lastUsedAt: null, lastUsedFrom: null }])
    clock.at += HOUR
    whose(text)
    await close()
    await open()
    expect(keys.list()).toMatchObject([{ id: key.id, lastUsedAt: clock.at, lastUsedFrom: '10.0.0.1' }])
  })

  test('end with their revocation, and what is open with them, but nothing else', async () => {
    const [one, other] = [await made(), await made()]
    const holds = [one, other].map(({ text }) => keys.find(text, null)?.hold())
    const token = keys.sign({
      ...{ id: 't', keyId: one.key.id, owner: 'acme/x', role: 'read', taskId: 'a', presetId: null },
      expiresAt: clock.at + HOUR,
    })
    const ofToken = keys.find(token, null)?.hold()
    expect(await keys.revoke(one.key.id, ANN)).toMatchObject({ id: one.key.id, revokedAt: clock.at })
    expect(holds.map((hold) => hold?.ended.aborted)).toEqual([true, false])
    expect(ofToken?.ended.aborted).toBe(true)
    expect([one.text, other.text, token].map((text) => whose(text) !== null)).toEqual([false, true, false])
    expect(await keys.revoke('nobody', ANN)).toBeNull()
    await close()
    await open()
    expect([one.text, other.text].map((text) => whose(text) !== null)).toEqual([false, true])
  })

  test('expire, and what is open with them ends within two seconds', async () => {
    const { text } = await made({ expiresAt: clock.at + HOUR })
    const hold = keys.find(text, null)?.hold()
    clock.at += HOUR
    expect(whose(text)).toBeNull()
    await expect.poll(() => hold?.ended.aborted, { timeout: 5_000 }).toBe(true)
    expect(keys.hasUsable()).toBe(false)
  })

  test('sign tokens for one task or one preset, which nobody can change', async () => {
    const { key } = await made()
    const claims = { id: 't1', keyId: key.id, owner: 'acme/ann', role: 'submit', taskId: null } as const
    const token = keys.sign({ ...claims, presetId: 'm/k', expiresAt: clock.at + HOUR })
    expect(whose(token)).toEqual({
      ...{
        kind: 'token',
        id: 't1',
        keyId: key.id,
        owner: 'acme/ann',
        role: 'submit',
        presets: ['m/k'],
        taskId: null,
      },
      name: 'token t1 of acme/ann',
    })
    const [body = '', mac = ''] = token.slice('gpt_'.length).split('.')
    const changed = Buffer.from(Buffer.from(body, 'base64url').toString().replace('m/k', 'm/x')).toString(
      'base64url',
    )
    expect(whose(`gpt_${changed}.${mac}`)).toBeNull()
    expect(whose(`gpt_${body}.${mac.slice(0, -2)}AA`)).toBeNull()
    clock.at += HOUR
    expect(whose(token)).toBeNull()
  })

  test.each<[string, Partial<NewKey>]>([
    ['no name', { name: ' ' }],
    ['an account with a slash', { owner: 'acme/ann' }],
    ['an empty list of presets', { presets: [] }],
    ['presets for who runs the service', { role: 'operate', presets: ['m/k' as never] }],
    ['a limit below 0', { limits: { queuedTasks: -1 } }],
    ['a limit that is no whole number', { limits: { sockets: 1.5 } }],
    ['an end that is over', { expiresAt: clock.at }],
  ])('are not made with %s', (_what, more) => {
    const key = {
      name: 'n',
      owner: 'acme',
      role: 'submit',
      presets: null,
      limits: {},
      expiresAt: null,
    } as const
    expect(problemOfNewKey(key, clock.at)).toBeNull()
    expect(problemOfNewKey({ ...key, ...more }, clock.at)).not.toBeNull()
  })

  describe('where a request comes', () => {
    const local: Origin = { address: '127.0.0.1', headers: { host: '127.0.0.1:4000' }, httpVersion: '1.1' }
    const authenticator = (required = false): Authenticator =>
      createAuthenticator({
        keys,
        onWrongKey: () => undefined,
        meters: createMeters(keys.limitsOf, clock as unknown as Clock),
        required,
        clock: clock as unknown as Clock,
      })

    test.each<[string, Origin]>([
      ['from loopback', local],
      ['from loopback, IPv6', { ...local, address: '::1', headers: { host: '[::1]:4000' } }],
      [
        'from loopback, IPv4 in IPv6',
        { ...local, address: '::ffff:127.0.0.1', headers: { host: 'localhost' } },
      ],
    ])('%s without a key, it is the local admin, unless keys are required', (_where, origin) => {
      expect(authenticator().authenticate(origin, null)).toMatchObject({ caller: { principal: LOCAL } })
      expect(authenticator(true).authenticate(origin, null)).toMatchObject({ status: 'unknown' })
    })

    test.each<[string, Partial<Origin>]>([
      ['from elsewhere', { address: '10.0.0.1' }],
      ['from a connection that has broken off', { address: 'unknown' }],
      ["from a browser's page", { headers: { host: 'localhost', origin: 'http://localhost:3000' } }],
      ["from a page's image", { headers: { host: 'localhost', 'sec-fetch-site': 'cross-site' } }],
      ['by another name', { headers: { host: 'gpu.example' } }],
      ['without a name', { headers: {} }],
      ['from a proxy', { headers: { host: 'localhost', 'x-forwarded-for': '10.0.0.1' } }],
      ['from a proxy of another kind', { headers: { host: 'localhost', via: '1.1 x' } }],
      ['from a proxy that adds nothing', { httpVersion: '1.0' }],
    ])('%s without a key, nobody is served', (_where, more) => {
      expect(authenticator().authenticate({ ...local, ...more }, null)).toMatchObject({ status: 'unknown' })
    })

    test('over the socket in the data folder, it is the local admin, also where keys are required', () => {
      const origin = { ...local, address: null }
      expect(authenticator(true).authenticate(origin, null)).toMatchObject({ caller: { principal: LOCAL } })
    })

    test('with a key, it is its holder from anywhere; with a wrong one nobody, not even from loopback', async () => {
      const { key, text } = await made()
      for (const credential of [text, `Bearer ${text}`, `bearer  ${text} `])
        expect(authenticator().authenticate({ ...local, address: '10.0.0.1' }, credential)).toMatchObject({
          caller: { principal: { id: key.id } },
        })
      for (const credential of ['', 'Bearer', text.slice(0, -1), `Basic ${text}`])
        expect(authenticator().authenticate(local, credential)).toMatchObject({ status: 'unknown' })
    })

    test('with wrong keys again and again, it is told to wait, which keeps no right key out', async () => {
      const { text } = await made()
      const each = authenticator()
      const states = Array.from({ length: 12 }, () => each.authenticate(local, 'wrong').status)
      expect(states).toEqual([...Array<string>(10).fill('unknown'), 'throttled', 'throttled'])
      expect(each.authenticate(local, 'wrong')).toMatchObject({ retryAfterSeconds: 60 })
      expect(each.authenticate({ ...local, address: '::1' }, 'wrong')).toMatchObject({ status: 'unknown' })
      expect(each.authenticate(local, text)).toMatchObject({ status: 'known' })
      clock.at += 60_000
      expect(each.authenticate(local, 'wrong')).toMatchObject({ status: 'unknown' })
    })
  })
})
