import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import type { AssignedGpu, GpuId, WorkerSpec } from '@gpu-service/tasks'
import Docker from 'dockerode'
import { type Examination, messageOf } from './examination.ts'

const NAME = 'GPU'

/** Whether a container of the preset's image reaches GPUs, and those that its worker may then have; `null`: it cannot run. */
export async function examineGpus({ image, gpus }: WorkerSpec): Promise<{
  readonly examination: Examination
  readonly assigned: readonly AssignedGpu[] | null
}> {
  if (gpus.count === 0)
    return { examination: { status: 'well', name: NAME, what: 'none is asked for' }, assigned: [] }
  const uuids = await gpusOfThisMachine()
  if (gpus.count === 'default' && uuids.length === 0) {
    const what = 'this machine has none (nvidia-smi): the worker runs without'
    return { examination: { status: 'well', name: NAME, what }, assigned: [] }
  }
  const problem = await containerProblem(image)
  if (problem !== null) return { examination: { ...problem, status: 'wrong', name: NAME }, assigned: null }
  const count = gpus.count === 'default' ? 1 : gpus.count
  const usable = uuids.filter((uuid) => gpus.ids?.includes(uuid) ?? true)
  if (usable.length < count) {
    const what = `the preset asks for ${count}, and this machine has ${usable.length} of them`
    const mend = 'Correct gpus.count and gpus.ids of the preset; nvidia-smi -L shows what there is.'
    return { examination: { status: 'wrong', name: NAME, what, mend }, assigned: null }
  }
  const assigned = usable.slice(0, count).map((id) => ({ id, index: uuids.indexOf(id), simulated: false }))
  return {
    examination: { status: 'well', name: NAME, what: `reached from a container: ${usable.join(', ')}` },
    assigned,
  }
}

async function gpusOfThisMachine(): Promise<readonly GpuId[]> {
  try {
    const { stdout } = await promisify(execFile)(
      'nvidia-smi',
      ['--query-gpu=uuid', '--format=csv,noheader'],
      {
        timeout: 20_000,
      },
    )
    return stdout.split('\n').filter(Boolean) as GpuId[]
  } catch {
    return []
  }
}

/** What keeps a container from GPUs; `null`: nothing. The image need not have `nvidia-smi`: the NVIDIA container toolkit brings it. */
async function containerProblem(image: string): Promise<{ what: string; mend: string } | null> {
  const mend =
    'Install the NVIDIA driver and the NVIDIA container toolkit (nvidia-ctk runtime configure --runtime=docker, then restart Docker). ' +
    `Test: docker run --rm --gpus all --entrypoint nvidia-smi ${image}`
  const docker = new Docker()
  const container = await docker.createContainer({
    Image: image,
    Entrypoint: ['nvidia-smi'],
    Cmd: ['-L'],
    HostConfig: {
      NetworkMode: 'none',
      DeviceRequests: [{ Driver: 'nvidia', Count: -1, Capabilities: [['gpu', 'compute', 'utility']] }],
    },
  })
  try {
    await container.start()
    const { StatusCode } = (await container.wait()) as { StatusCode: number }
    if (StatusCode === 0) return null
    return { what: `nvidia-smi fails in a container with exit code ${StatusCode}`, mend }
  } catch (error) {
    return { what: `a container does not reach it: ${messageOf(error)}`, mend }
  } finally {
    await container.remove({ force: true })
  }
}
