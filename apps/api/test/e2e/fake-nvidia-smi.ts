import { chmod, mkdtemp, rename, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'

export const FAKE_GPU = 'GPU-00000000-0000-0000-0000-00000000beef'
const BUS = '00000000:01:00.0'
const MEMORY_MB = 8_192

const answer = (gpus: string, count: number): string => `<?xml version="1.0" ?>
<nvidia_smi_log><attached_gpus>${count}</attached_gpus>${gpus}</nvidia_smi_log>`

const card = (usedMb: number): string => `<gpu id="${BUS}">
  <product_name>A card that is not there</product_name><uuid>${FAKE_GPU}</uuid>
  <fb_memory_usage><total>${MEMORY_MB} MiB</total><used>${usedMb} MiB</used><free>${MEMORY_MB - usedMb} MiB</free></fb_memory_usage>
  <utilization><gpu_util>0 %</gpu_util></utilization><temperature><gpu_temp>30 C</gpu_temp></temperature>
  <gpu_power_readings><instant_power_draw>20.00 W</instant_power_draw></gpu_power_readings><processes></processes>
</gpu>`

/** How the driver's program behaves. */
const BEHAVIOURS = {
  works: `case "$1" in -L) echo 'GPU 0: A card that is not there (UUID: ${FAKE_GPU})';; *) cat <<'END'
${answer(card(0), 1)}
END
esac`,
  /** The card has vanished from the bus. */
  absent: `case "$1" in -L) ;; *) cat <<'END'
${answer('', 0)}
END
esac`,
  /** The driver has given the card up. */
  lost: `echo 'Unable to determine the device handle for GPU0000:01:00.0: GPU is lost.  Reboot the system to recover this GPU'; exit 15`,
  hangs: `trap '' TERM; while :; do sleep 1; done`,
} as const

/** A program in the place of the driver's own. */
export interface FakeNvidiaSmi extends AsyncDisposable {
  /** For the service's environment. */
  readonly path: string
  /** `removed`: there is no such program. */
  becomes(behaviour: keyof typeof BEHAVIOURS | 'removed'): Promise<void>
}

export async function makeFakeNvidiaSmi(): Promise<FakeNvidiaSmi> {
  const folder = await mkdtemp(join(tmpdir(), 'nvidia-smi-'))
  const program = join(folder, 'nvidia-smi')
  const fake: FakeNvidiaSmi = {
    path: `${folder}${delimiter}${process.env['PATH'] ?? ''}`,
    async becomes(behaviour) {
      if (behaviour === 'removed') {
        await rm(program)
        return
      }
      // Never written to in place: it may be running.
      const next = `${program}.next`
      await writeFile(next, `#!/bin/sh\n${BEHAVIOURS[behaviour]}\n`)
      await chmod(next, 0o755)
      await rename(next, program)
    },
    async [Symbol.asyncDispose]() {
      await rm(folder, { recursive: true, force: true })
    },
  }
  await fake.becomes('works')
  return fake
}
