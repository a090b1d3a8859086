import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { chooseRunner } from '../src/runner-choice.ts'

let dataDir: string
beforeEach(async () => {
  dataDir = await mkdtemp(join(tmpdir(), 'runner-choice-'))
})
afterEach(() => rm(dataDir, { recursive: true }))

const noSocket = (): string => join(dataDir, 'no-docker.sock')

describe('RUNNER=auto', () => {
  test('takes Docker where its socket is', async () => {
    const dockerSocket = join(dataDir, 'docker.sock')
    await writeFile(dockerSocket, '')
    expect(
      chooseRunner({
        setting: 'auto',
        dataDir,
        dockerHost: null,
        hasWorkers: false,
        dockerSockets: [noSocket(), dockerSocket],
      }),
    ).toEqual({
      kind: 'docker',
      why: `${dockerSocket} is there`,
    })
  })

  test('takes Docker where DOCKER_HOST is set', () => {
    const choice = chooseRunner({
      setting: 'auto',
      dataDir,
      dockerHost: 'tcp://engine:2375',
      hasWorkers: false,
      dockerSockets: [noSocket()],
    })
    expect(choice).toEqual({ kind: 'docker', why: 'DOCKER_HOST is set' })
  })

  test('takes processes where there is no Docker, and Docker once there is', () => {
    const choose = (dockerHost: string | null): string =>
      chooseRunner({ setting: 'auto', dataDir, dockerHost, hasWorkers: false, dockerSockets: [noSocket()] })
        .kind
    expect(choose(null)).toBe('process')
    expect(choose('unix:///run/docker.sock')).toBe('docker')
  })

  test('stays with processes while workers of before still run as such', () => {
    const choose = (dockerHost: string | null, hasWorkers: boolean): string =>
      chooseRunner({ setting: 'auto', dataDir, dockerHost, hasWorkers, dockerSockets: [] }).kind
    expect(choose(null, false)).toBe('process')
    expect(choose('unix:///run/docker.sock', true)).toBe('process')
    expect(choose('unix:///run/docker.sock', false)).toBe('docker')
  })

  test('never falls back to processes in an installation that has used Docker', () => {
    chooseRunner({
      setting: 'auto',
      dataDir,
      dockerHost: 'unix:///run/docker.sock',
      hasWorkers: false,
      dockerSockets: [noSocket()],
    })
    expect(
      chooseRunner({
        setting: 'auto',
        dataDir,
        dockerHost: null,
        hasWorkers: false,
        dockerSockets: [noSocket()],
      }).kind,
    ).toBe('docker')
  })
})

test('a set runner is taken whatever there is', () => {
  expect(
    chooseRunner({ setting: 'process', dataDir, dockerHost: 'unix:///run/docker.sock', hasWorkers: false }),
  ).toEqual({
    kind: 'process',
    why: 'RUNNER=process',
  })
})
