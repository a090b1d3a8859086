import type { WorkerSpec } from './spec.ts'

/**
 * What of the confinement of its workers a preset has relaxed, one sentence each; empty where they are confined as all are by default. Of
 * workers that are containers: plain processes are not confined at all.
 */
export function relaxationsOf({ relax, network, volumes }: WorkerSpec): readonly string[] {
  const found: string[] = []
  if (relax.user !== null)
    found.push(
      relax.user.startsWith('0:')
        ? `Workers run as ${relax.user}, which is root inside of the container (allow.user).`
        : `Workers run as ${relax.user} instead of 65534:65534 (allow.user).`,
    )
  if (relax.writableRoot)
    found.push("Workers may write anywhere in their own container's file system (allow.writable_root).")
  if (relax.capabilities.length > 0)
    found.push(`Workers keep the capabilities ${relax.capabilities.join(', ')} (allow.capabilities).`)
  if (network !== 'none') found.push("Workers reach what Docker's bridge network reaches (network: bridge).")
  for (const { source, target, readOnly } of volumes)
    found.push(
      `Workers ${readOnly ? 'read' : 'read and write'} ${source} of the host at ${target} (volumes).`,
    )
  return found
}
