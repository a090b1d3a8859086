import { clientOf } from './client.ts'

const LABEL = 'gpu-service.installation'

/** What stands on an engine at one moment. */
export interface EngineSnapshot {
  readonly containerIds: ReadonlySet<string>
  readonly networks: ReadonlySet<string>
}

export async function takeSnapshot(dockerHost: string): Promise<EngineSnapshot> {
  const [containers, networks] = await Promise.all([listOurs(dockerHost), listNetworks(dockerHost)])
  return { containerIds: new Set(containers.map(({ Id }) => Id)), networks: new Set(networks) }
}

/** What tests have left on the engine since the snapshot, one line each: containers with our label, and networks that came or went. */
export async function leaksSince(dockerHost: string, before: EngineSnapshot): Promise<readonly string[]> {
  const [containers, networks] = await Promise.all([listOurs(dockerHost), listNetworks(dockerHost)])
  const left = containers.filter(({ Id }) => !before.containerIds.has(Id))
  return [
    ...left.map(
      ({ Id, Names, State, Labels }) =>
        `container ${Names[0]?.slice(1) ?? Id} (${State}) of installation ${Labels[LABEL] ?? '?'} is left`,
    ),
    ...networks.filter((name) => !before.networks.has(name)).map((name) => `network ${name} is left`),
    ...[...before.networks]
      .filter((name) => !networks.includes(name))
      .map((name) => `network ${name} is gone`),
  ]
}

async function listOurs(dockerHost: string) {
  return await clientOf(dockerHost).listContainers({ all: true, filters: { label: [LABEL] } })
}

async function listNetworks(dockerHost: string): Promise<string[]> {
  return (await clientOf(dockerHost).listNetworks()).map(({ Name }) => Name)
}
