import type { Logger } from '@gpu-service/tasks'
import { silentLogger } from '@gpu-service/tasks'
import { expect, it } from 'vitest'
import { presetsFolder } from './presets-folder.ts'

it('a preset that relaxes the confinement of its workers is warned of once, and again when it changes', async () => {
  const file = (model: string, allow: string) => `models:
  strict: { a: { docker_image: x } }
  ${model}: { b: { docker_image: x, network: bridge, allow: ${allow} } }
`
  await using folder = await presetsFolder(file('loose', '{user: "1000:1000"}'))
  const told: [object, string][] = []
  const logger: Logger = { ...silentLogger, warn: (fields, message) => told.push([fields, message]) }
  const catalog = await folder.open({ logger })
  const network = "Workers reach what Docker's bridge network reaches (network: bridge)."
  const warned = (...relaxations: string[]) => [
    { preset: 'loose/b', relaxations },
    'A preset relaxes the confinement of its workers',
  ]
  const first = warned('Workers run as 1000:1000 instead of 65534:65534 (allow.user).', network)
  expect(told).toEqual([first])
  await catalog.reload()
  expect(told).toEqual([first])
  await folder.write(file('loose', '{capabilities: [IPC_LOCK]}'))
  await catalog.reload()
  expect(told).toEqual([
    first,
    warned('Workers keep the capabilities IPC_LOCK (allow.capabilities).', network),
  ])
})
