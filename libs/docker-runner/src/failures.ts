import { posix } from 'node:path'
import type { StartFailure } from '@gpu-service/tasks'
import { LOG } from './container.ts'
import type { ContainerInfo } from './container-info.ts'
import type { EngineError } from './engine.ts'

const LOG_HINT =
  "Take `mode` and `max-buffer-size` out of `log-opts` in the engine's daemon.json and restart it: a log that does not block loses lines of a worker that prints fast."

/*
 * The engine gives its refusals of a start no code: the status is 400, 404 or 500 for all of them, and only the text tells what was
 * missing. This is the one place that looks at texts, as narrowly as they allow (seen with Docker 20.10 to 28).
 */
const CUES: readonly { readonly cue: RegExp; readonly code: StartFailure['code']; readonly hint: string }[] =
  [
    {
      cue: /could not select device driver|nvidia-container-cli|failed to inject CDI devices/,
      code: 'GPU_UNAVAILABLE',
      hint: 'Install the NVIDIA container toolkit on the host and restart Docker, then try: docker run --rm --gpus all <image> nvidia-smi',
    },
    {
      cue: /exec: .{0,1000}(executable file not found|no such file or directory|permission denied)|no command specified/i,
      code: 'COMMAND_NOT_FOUND',
      hint: "Check the preset's `command` against the programs in the image.",
    },
    {
      cue: /no space left on device/,
      code: 'ENGINE_REFUSED',
      hint: "The disk that holds the engine's data is full: `docker system df` tells what takes it, `docker system prune` frees what is not in use.",
    },
    {
      cue: /max-buffer-size option is only supported/,
      code: 'ENGINE_REFUSED',
      hint: LOG_HINT,
    },
    {
      cue: /bind source path does not exist/,
      code: 'ENGINE_REFUSED',
      hint: "The engine must see the service's data and models folders, and the preset's volumes, under the same paths as the service.",
    },
  ]

/** Why the engine did not start a worker. */
export function failureOf(error: EngineError): StartFailure {
  if (error.away) {
    return {
      status: 'failed',
      code: 'ENGINE_UNAVAILABLE',
      message: `The Docker engine does not answer: ${error.message}`,
      hint: 'Check that Docker runs and that the service may use its socket (DOCKER_HOST).',
    }
  }
  const known = CUES.find(({ cue }) => cue.test(error.message))
  return {
    status: 'failed',
    code: known?.code ?? 'ENGINE_REFUSED',
    message: error.message,
    hint: known?.hint ?? "The text is the Docker engine's own; its log may say more.",
  }
}

export function imageNotFound(image: string): StartFailure {
  return {
    status: 'failed',
    code: 'IMAGE_NOT_FOUND',
    message: `The image ${image} is not on this machine.`,
    hint: `Build it with its worker's build.sh, load it with \`docker load\`, or set \`pull: missing\` in the preset.`,
  }
}

/** Why the log that the engine keeps of a container will not do; `null`: it is the one that was asked for. */
export function otherLog({ logDriver, logOptions, autoRemove }: ContainerInfo): StartFailure | null {
  const different = Object.entries(LOG.options).filter(([name, value]) => logOptions[name] !== value)
  const told = [
    ...(logDriver === LOG.driver ? [] : [`driver ${logDriver}`]),
    ...different.map(([name]) => `${name} ${JSON.stringify(logOptions[name] ?? 'unset')}`),
    ...(autoRemove ? ['removed with its container at its end'] : []),
  ]
  if (told.length === 0) return null
  return {
    status: 'failed',
    code: 'ENGINE_REFUSED',
    message: `The engine keeps another log of the worker than was asked for (${told.join(', ')}): output would be lost.`,
    hint: `Workers need the log driver ${LOG.driver} with ${JSON.stringify(LOG.options)}; see whether the engine, or what stands before it, replaces that.`,
  }
}

/**
 * Why a worker may not begin where its image says; `null`: it may. Before runc 1.1.12 a folder below `/proc/self/fd` was one of the host
 * (CVE-2024-21626), and no worker has anything to do in the folders of the kernel.
 */
export function kernelFolder({ workingDir }: ContainerInfo): StartFailure | null {
  if (!/^\/(proc|sys)(\/|$)/.test(posix.resolve('/', workingDir))) return null
  return {
    status: 'failed',
    code: 'ENGINE_REFUSED',
    message: `The image's working folder ${JSON.stringify(workingDir)} is one of the kernel, from which a worker could reach the host.`,
    hint: 'Do not run images that you do not know; give your own another WORKDIR in its Dockerfile.',
  }
}

export function nameTaken(name: string): StartFailure {
  return {
    status: 'failed',
    code: 'ENGINE_REFUSED',
    message: `The engine has a container ${name} that is not the worker's.`,
    hint: `Remove it: docker rm -f ${name}`,
  }
}

export function startAbandoned(): StartFailure {
  return {
    status: 'failed',
    code: 'START_ABANDONED',
    message: 'The start was called off before there was a worker.',
    hint: 'Nothing is left of it; start it again if it is wanted after all.',
  }
}

export function startLost({ message }: StartFailure): StartFailure {
  return {
    status: 'failed',
    code: 'START_LOST',
    message: `The Docker engine went away while it started the worker, and cannot start it any more: ${message}.`,
    hint: '',
  }
}

export function commandNotFound(problem: string): StartFailure {
  return {
    status: 'failed',
    code: 'COMMAND_NOT_FOUND',
    message: `The worker's command cannot be run: ${problem}.`,
    hint: "Check the preset's `command` against the programs in the image.",
  }
}

export function environmentTooLarge(maxBytes: number): StartFailure {
  return {
    status: 'failed',
    code: 'ENGINE_REFUSED',
    message: `The preset's env_vars are over ${maxBytes} bytes: no program starts with much more.`,
    hint: 'Put large values into a file and mount it with `volumes`.',
  }
}
