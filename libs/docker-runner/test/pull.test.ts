import { existsSync } from 'node:fs'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { inspect } from 'node:util'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { type PullProgress, silentLogger, type StartOptions, type WorkerOrder } from '@gpu-service/tasks'
import { createDockerRunner } from '../src/index.ts'
import type { HeldAnswer } from './engine-proxy.ts'
import { type DockerRig, openProxiedRig, type ProxiedRig } from './rig.ts'

const REPOSITORY = 'pulled-by-the-pull-test'
const IMAGE = `${REPOSITORY}:1`

describe('pulling an image', { timeout: 30_000 }, () => {
  let proxied: ProxiedRig
  let rig: DockerRig
  /** The pulls that the engine was asked for, all held open. */
  let pulls: HeldAnswer[]

  async function open(options: Parameters<typeof openProxiedRig>[0] = {}): Promise<void> {
    proxied = await openProxiedRig(options)
    rig = proxied.rig
    const held: HeldAnswer[] = []
    pulls = held
    proxied.proxy.rule((line) =>
      line.includes('/images/create')
        ? {
            kind: 'hold',
            begun: (answer) => {
              held.push(answer)
              // Otherwise the client would wait for the first byte of it.
              answer.write('\n')
            },
          }
        : undefined,
    )
  }

  async function close(): Promise<void> {
    await rig.docker
      .getImage(IMAGE)
      .remove({ force: true })
      .catch(() => undefined)
    await proxied[Symbol.asyncDispose]()
    expect(await rig.containers()).toEqual([])
  }

  beforeEach(() => open())
  afterEach(close)

  function order(): WorkerOrder {
    return rig.order('true', { image: IMAGE, pull: 'missing' })
  }

  function steps(...lines: readonly object[]): string {
    return lines.map((line) => `${JSON.stringify(line)}\r\n`).join('')
  }

  /** The pull that is asked for as the number-th. */
  async function pull(number = 1): Promise<HeldAnswer> {
    return vi.waitFor(() => {
      const found = pulls[number - 1]
      if (!found) throw new Error('no pull was asked for')
      return found
    }, 5_000)
  }

  /** Starts a worker, and waits until it is one of those that wait for the image. */
  async function startWaiting(options: StartOptions = {}) {
    const mine = order()
    let isWaiting = false
    const started = rig.runner.start(mine, {
      ...options,
      onPull(progress) {
        isWaiting = true
        options.onPull?.(progress)
      },
    })
    const held = await pull()
    await vi.waitFor(() => {
      held.write(steps({ status: 'nothing new' }))
      expect(isWaiting).toBe(true)
    }, 5_000)
    return { order: mine, started, held }
  }

  async function finish(held: HeldAnswer): Promise<void> {
    await rig.docker.getImage('busybox:test').tag({ repo: REPOSITORY, tag: '1' })
    held.end()
  }

  it('is left at once by a start that is called off, and cancelled with the last one', async () => {
    const [first, second] = [new AbortController(), new AbortController()]
    const told: PullProgress[] = []
    const one = await startWaiting({ signal: first.signal })
    const two = await startWaiting({ signal: second.signal, onPull: (each) => told.push(each) })
    first.abort()
    expect(await one.started).toMatchObject({ status: 'failed', code: 'START_ABANDONED' })
    one.held.write(steps({ id: 'a', status: 'Download complete' }))
    await vi.waitFor(() => {
      expect(told.at(-1)?.message).toMatch(/0 of 1 layer$/)
    }, 5_000)
    expect(one.held.isClosed).toBe(false)

    second.abort()
    expect(await two.started).toMatchObject({ status: 'failed', code: 'START_ABANDONED' })
    await vi.waitFor(() => {
      expect(one.held.isClosed).toBe(true)
    })
    expect(await rig.containers()).toEqual([])
    expect(existsSync(join(rig.dataDir, 'workers', one.order.name))).toBe(false)
    expect(pulls).toHaveLength(1)
  })

  it('goes on for the others, and starts them, where one is called off', async () => {
    const stop = new AbortController()
    const one = await startWaiting({ signal: stop.signal })
    const two = await startWaiting()
    stop.abort()
    expect(await one.started).toMatchObject({ code: 'START_ABANDONED' })
    await finish(one.held)
    expect(await two.started).toMatchObject({ status: 'started' })
    expect(await rig.containers()).toEqual([two.order.name])
  })

  it('begins anew for a start that comes after the last one has left', async () => {
    const stop = new AbortController()
    const one = await startWaiting({ signal: stop.signal })
    stop.abort()
    await one.started
    const started = rig.runner.start(order())
    await finish(await pull(2))
    expect(await started).toMatchObject({ status: 'started' })
  })

  it('is cancelled when the runner is disposed', async () => {
    const { started, held } = await startWaiting()
    const failing = expect(started).rejects.toMatchObject({ code: 'ENGINE_UNAVAILABLE' })
    await rig.runner[Symbol.asyncDispose]()
    await failing
    await vi.waitFor(() => {
      expect(held.isClosed).toBe(true)
    })
  })

  it('is not begun for a start that was called off before', async () => {
    const mine = order()
    expect(await rig.runner.start(mine, { signal: AbortSignal.abort() })).toMatchObject({
      status: 'failed',
      code: 'START_ABANDONED',
    })
    expect(proxied.proxy.requests).toEqual([])
  })

  it('does not keep a worker from being adopted that was made before its start was called off', async () => {
    const mine = await rig.start('sleep 60')
    expect(await rig.runner.start(mine, { signal: AbortSignal.abort() })).toMatchObject({ status: 'started' })
    expect(await rig.containers()).toEqual([mine.name])
  })

  describe('tells of its progress', () => {
    async function expectTold(lines: readonly object[], expected: PullProgress): Promise<void> {
      const told: PullProgress[] = []
      const stop = new AbortController()
      const { started, held } = await startWaiting({
        signal: stop.signal,
        onPull: (each) => told.push(each),
      })
      expect(told[0]).toEqual({ message: `Pulling ${IMAGE}`, progress: null })
      held.write(steps({ id: '1', status: `Pulling from library/${REPOSITORY}` }, ...lines))
      await vi.waitFor(() => {
        expect(told.at(-1)).toEqual(expected)
      }, 5_000)
      stop.abort()
      await started
    }

    const waiting = ['a', 'b', 'c', 'd'].map((id) => ({ id, status: 'Pulling fs layer', progressDetail: {} }))

    it('by the layers that are done, without a number as long as one has no size', async () => {
      const lines = [
        ...waiting,
        { id: 'a', status: 'Already exists', progressDetail: {} },
        { id: 'b', status: 'Downloading', progressDetail: { current: 5, total: 10 } },
        { status: 'Digest: sha256:0' },
      ]
      await expectTold(lines, { message: `Pulling ${IMAGE}: 1 of 4 layers`, progress: null })
    })

    it('by bytes, half for the download and half for the extraction, where all sizes are known', async () => {
      const lines = [
        ...waiting,
        { id: 'a', status: 'Already exists', progressDetail: {} },
        { id: 'b', status: 'Downloading', progressDetail: { current: 50, total: 100 } },
        { id: 'c', status: 'Downloading', progressDetail: { current: 100, total: 100 } },
        { id: 'c', status: 'Extracting', progressDetail: { current: 25, total: 100 } },
        { id: 'd', status: 'Downloading', progressDetail: { current: 1, total: 200 } },
        { id: 'd', status: 'Download complete', progressDetail: {} },
        { id: 'd', status: 'Extracting', progressDetail: { current: 3, units: 's' } },
        { id: 'd', status: 'Pull complete', progressDetail: {} },
      ]
      const progress = (50 + 100 + 25 + 400) / 800
      await expectTold(lines, { message: `Pulling ${IMAGE}: 2 of 4 layers`, progress })
    })

    it('at most once a second, the newest at last, to late joiners too', async () => {
      const stop = new AbortController()
      const told: [number, string][] = []
      const late: string[] = []
      const one = await startWaiting({
        signal: stop.signal,
        onPull: ({ message }) => told.push([performance.now(), message]),
      })
      for (let number = 0; number < 50; number += 1)
        one.held.write(steps({ id: String(number), status: 'Waiting' }))
      await vi.waitFor(() => {
        expect(told.at(-1)?.[1]).toBe(`Pulling ${IMAGE}: 0 of 50 layers`)
      }, 5_000)
      const two = await startWaiting({ signal: stop.signal, onPull: ({ message }) => late.push(message) })
      for (let number = 0; number < 50; number += 1)
        one.held.write(steps({ id: String(number), status: 'Pull complete' }))
      await vi.waitFor(() => {
        expect(late.at(-1)).toBe(`Pulling ${IMAGE}: 50 of 50 layers`)
      }, 5_000)
      const gaps = told.slice(1).map(([at], index) => at - (told[index]?.[0] ?? 0))
      expect(gaps.length).toBeGreaterThan(0)
      // A timer may fire a moment early.
      expect(Math.min(...gaps)).toBeGreaterThan(990)
      stop.abort()
      await Promise.all([one.started, two.started])
    })

    it('to the others where one of those who are told fails', async () => {
      const stop = new AbortController()
      const onPull = () => {
        throw new Error('not me')
      }
      const one = await startWaiting({ signal: stop.signal, onPull })
      const two = await startWaiting({ signal: stop.signal })
      stop.abort()
      expect(await one.started).toMatchObject({ code: 'START_ABANDONED' })
      expect(await two.started).toMatchObject({ code: 'START_ABANDONED' })
    })
  })

  describe('with the credentials of a file', () => {
    const SECRET = 'hunter-of-secrets'
    const basic = (user: string) => ({ auth: Buffer.from(`${user}:${SECRET}`).toString('base64') })

    let folder: string
    let path: string

    beforeEach(async () => {
      folder = await mkdtemp(join(tmpdir(), 'credentials-'))
      path = join(folder, 'config.json')
      await close()
      await open({ credentialsFile: path })
    })

    afterEach(async () => {
      vi.unstubAllEnvs()
      await rm(folder, { recursive: true })
    })

    /** What the engine is shown for an image. */
    async function shownFor(image: string, runner = rig.runner): Promise<unknown> {
      const stop = new AbortController()
      const started = runner.start(rig.order('true', { image, pull: 'missing' }), { signal: stop.signal })
      const { head } = await pull(pulls.length + 1)
      stop.abort()
      expect(await started).toMatchObject({ code: 'START_ABANDONED' })
      const header = /^x-registry-auth: (.*)$/im.exec(head)?.[1]
      if (header === undefined) return null
      expect(header).toMatch(/^[\w-]+=*$/)
      // The engine takes it only with its padding.
      expect(header.length % 4).toBe(0)
      return JSON.parse(Buffer.from(header, 'base64url').toString())
    }

    it('shows each registry its own and no other', async () => {
      const auths = {
        'https://index.docker.io/v1/': basic('hub'),
        'registry.example:5000': basic('example'),
        'https://old.example/v1/': { username: 'old', password: SECRET },
        'token.example': { ...basic('token'), identitytoken: 'identity' },
        'store.example': {},
      }
      await writeFile(path, JSON.stringify({ auths, HttpHeaders: { a: 'b' } }))
      const hub = { username: 'hub', password: SECRET, serveraddress: 'https://index.docker.io/v1/' }
      expect(await shownFor('none-such-1:1')).toEqual(hub)
      expect(await shownFor('none/such-2:1')).toEqual(hub)
      expect(await shownFor('docker.io/none/such-3:1')).toEqual(hub)
      expect(await shownFor('registry.example:5000/none/such:1')).toMatchObject({ username: 'example' })
      expect(await shownFor('old.example/none:1')).toMatchObject({ username: 'old', password: SECRET })
      expect(await shownFor('token.example/none:1')).toMatchObject({ identitytoken: 'identity' })
      expect(await shownFor('store.example/none:1')).toBeNull()
      expect(await shownFor('registry.example/none:1')).toBeNull()
      expect(rig.warnings).toEqual([])
    })

    it('takes the file as it is at each pull, and none where there is none', async () => {
      expect(await shownFor('none-such:1')).toBeNull()
      await writeFile(path, JSON.stringify({ auths: { 'https://index.docker.io/v1/': basic('later') } }))
      expect(await shownFor('none-such:1')).toMatchObject({ username: 'later' })
      expect(rig.warnings).toEqual([])
    })

    it('finds the file of Docker itself', async () => {
      vi.stubEnv('DOCKER_CONFIG', folder)
      await writeFile(path, JSON.stringify({ auths: { 'https://index.docker.io/v1/': basic('docker') } }))
      await using runner = createDockerRunner({
        docker: { dockerHost: proxied.proxy.dockerHost },
        installation: rig.installation,
        dataDir: rig.dataDir,
        modelsDir: join(folder, 'models'),
        logger: silentLogger,
      })
      expect(await shownFor('none-such:1', runner)).toMatchObject({ username: 'docker' })
    })

    const entry = (value: unknown) => JSON.stringify({ auths: { 'https://index.docker.io/v1/': value } })

    it.each([
      ['is no JSON', `{"auths": ${SECRET}`, /not JSON/],
      ['is too large', `{"x": "${SECRET}${'x'.repeat(1024 * 1024)}"}`, /over 1048576 bytes/],
      ['is no object', JSON.stringify([SECRET]), /not a JSON object/],
      ['has another kind of auths', JSON.stringify({ auths: [SECRET] }), /`auths`/],
      ['has another kind of entry', entry(SECRET), /not an object/],
      ['has another kind of password', entry({ username: 'a', password: [SECRET] }), /`password`.*not text/],
      ['has an auth that is no base64', entry({ auth: `a:${SECRET}` }), /base64/],
      ['has an auth without a user', entry({ auth: btoa(SECRET) }), /user:password/],
    ])(
      'pulls without where the file %s, and tells nothing of its content',
      async (_what, content, problem) => {
        await writeFile(path, content)
        expect(await shownFor('none-such:1')).toBeNull()
        expect(rig.warnings).toMatchObject([{ fields: { path } }])
        expect(JSON.stringify(rig.warnings[0]?.fields)).toMatch(problem)
        expect(inspect(rig.warnings, { depth: 9 })).not.toContain(SECRET)
        expect(inspect(rig.warnings, { depth: 9 })).not.toContain(btoa(SECRET))
      },
    )

    it('pulls without where the file cannot be read', async () => {
      await mkdir(path)
      expect(await shownFor('none-such:1')).toBeNull()
      expect(rig.warnings).toMatchObject([{ fields: { problem: 'it is not a file' } }])
    })

    it('says once that stores and helpers are ignored', async () => {
      const auths = { 'https://index.docker.io/v1/': basic('hub') }
      await writeFile(path, JSON.stringify({ auths, credsStore: 'desktop', credHelpers: { a: 'b' } }))
      expect(await shownFor('none-such:1')).toMatchObject({ username: 'hub' })
      expect(await shownFor('none-such:2')).toMatchObject({ username: 'hub' })
      expect(rig.warnings).toMatchObject([{ fields: { ignored: ['credsStore', 'credHelpers'] } }])
    })
  })
})
