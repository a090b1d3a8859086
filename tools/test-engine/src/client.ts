import Docker from 'dockerode'

/** The client of the engine at a DOCKER_HOST. Certificates come from the environment, as Docker's own client takes them. */
export function clientOf(dockerHost: string, timeoutMs?: number): Docker {
  return new Docker({
    ...(dockerHost.startsWith('unix://') ? { socketPath: dockerHost.slice('unix://'.length) } : {}),
    ...(timeoutMs === undefined ? {} : { timeout: timeoutMs }),
  })
}

export async function answersPing(dockerHost: string, timeoutMs: number): Promise<boolean> {
  try {
    await clientOf(dockerHost, timeoutMs).ping()
    return true
  } catch {
    return false
  }
}
