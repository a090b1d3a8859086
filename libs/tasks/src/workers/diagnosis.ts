import type { FailureCause } from '../evidence.ts'
import type { StartFailure } from '../runner.ts'
import type { WorkerSpec } from '../spec.ts'
import { BAD_INPUT_CODES, BROKEN_CONTEXT, exitText, OUT_OF_MEMORY, type AttemptEnd } from './outcome.ts'
import { signalOf } from './signals.ts'

export interface Diagnosis {
  readonly cause: FailureCause
  /** For people: what probably happened, and what to do. */
  readonly text: string
}

/** A trace that a known cause leaves in what programs print. */
interface Cue {
  readonly cue: RegExp
  readonly cause: FailureCause
  readonly text: (spec: WorkerSpec, found: string) => string
}

/*
 * What the kernel, the C library, Python, Node.js, PyTorch and CUDA print, in the words that they have had for years. The first one that
 * is found counts, so what says more stands first.
 */
const CUES: readonly Cue[] = [
  {
    cue: /CUDA out of memory|CUDA error: out of memory|CUDA_ERROR_OUT_OF_MEMORY|cudaMalloc failed: out of memory|failed to allocate .{0,200}(?:CUDA|VRAM)|HIP out of memory/i,
    cause: 'gpu_out_of_memory',
    text: ({ gpus }) =>
      `The model did not fit into the GPU's memory beside what else is in use there. Ask for more with gpus.memory (now ${
        gpus.memoryMb === null ? 'not set' : `${gpus.memoryMb} MB`
      }), take a smaller model, batch or context, or a GPU of its own (gpus.share: exclusive).`,
  },
  {
    cue: BROKEN_CONTEXT,
    cause: 'gpu_broken',
    text: (_spec, found) =>
      `Work on the GPU failed (${found}). Once is mostly the model's own code (an index out of range, kernels for another GPU); again and again on one GPU is the card: look for Xid lines in the kernel's log.`,
  },
  {
    cue: /[Nn]o space left on device|\bENOSPC\b|[Dd]isk quota exceeded/,
    cause: 'disk_full',
    text: ({ limits }) =>
      `A disk was full: the host's, or the worker's own /tmp and home, which hold ${limits.tmpMb} MB (resources.tmp). Make room, or raise that.`,
  },
  {
    cue: /[Rr]ead-only file system|\bEROFS\b/,
    cause: 'confined',
    text: () =>
      'The worker wrote where it may not: its root file system is read-only. Let it write below HOME, /tmp or its cache folder, or set allow.writable_root.',
  },
  {
    cue: /bad address|name resolution|getaddrinfo|\bENOTFOUND\b|\bEAI_AGAIN\b|Network is unreachable|\bENETUNREACH\b|Could not resolve host|Max retries exceeded with url/,
    cause: 'confined',
    text: ({ network }) =>
      network === 'none'
        ? 'The worker wanted to reach the network, and it has none. Put the files that it fetches into the models folder, or set network: bridge.'
        : 'The worker could not reach what it looked for in the network. Put the files that it fetches into the models folder, or check the network of the host.',
  },
  {
    cue: /can't start new thread|Resource temporarily unavailable|fork: retry|pthread_create failed|can(?:no|')t fork|spawn \S* EAGAIN/,
    cause: 'confined',
    text: ({ limits }) =>
      `The worker could start no more processes or threads: it may have ${limits.processes} (resources.processes). Raise that, or have its libraries start fewer (OMP_NUM_THREADS).`,
  },
  {
    cue: /insufficient shared memory|unable to (?:open|mmap) shared memory|shm_open|DataLoader worker .{0,200} killed by signal: Bus error/i,
    cause: 'confined',
    text: ({ limits }) =>
      `Shared memory was used up: /dev/shm holds ${limits.sharedMemoryMb} MB (resources.shared_memory). Raise that.`,
  },
  {
    cue: /ModuleNotFoundError: .*|ImportError: .*|Cannot find (?:module|package) .*|error while loading shared libraries: .*|cannot open shared object file.*/,
    cause: 'dependency_missing',
    text: (_spec, found) =>
      `The worker's image lacks something that its program needs (${found}). Install it in the image and build it anew.`,
  },
  {
    cue: /FileNotFoundError: .*|No such file or directory.*|\bENOENT\b.*/,
    cause: 'file_missing',
    text: ({ modelPath }, found) =>
      `The worker did not find a file (${found}). Models lie below MODELS_DIR, mounted at /models${
        modelPath === null ? '' : `, and model_path of the preset is ${modelPath}`
      }.`,
  },
  {
    cue: /PermissionError: .*|Permission denied.*|\bEACCES\b.*|Operation not permitted.*|\bEPERM\b.*/,
    cause: 'confined',
    text: ({ relax }, found) =>
      `The worker was not allowed to do something (${found}). It runs as user ${relax.user ?? '65534:65534'} without capabilities; allow.user and allow.capabilities change that.`,
  },
]

const CRASHES: Readonly<Record<string, string>> = {
  SIGSEGV: 'its native code used memory that is not its own',
  SIGBUS: 'it used memory that is not there: a file that was cut short while mapped, or a full /dev/shm',
  SIGABRT: 'its native code gave up by itself (an assertion, or memory that it found damaged)',
  SIGILL: 'it has instructions that this CPU does not know: an image that was built for another one',
  SIGFPE: 'its native code calculated what cannot be calculated',
}

const MAX_FOUND = 200

/** What probably made the attempt fail, from the first thing that tells. To be asked only of one that has FAILED or TIMED_OUT. */
export function diagnose(attempt: AttemptEnd, spec: WorkerSpec): Diagnosis {
  const { stopReason, end, finish } = attempt
  switch (stopReason) {
    case 'gpu-lost':
      return {
        cause: 'gpu_lost',
        text: "A GPU that the worker used disappeared or was given up by its driver. Look at the kernel's log for Xid 79 and the like; the others go on meanwhile.",
      }
    case 'timeout':
      return {
        cause: 'run_timeout',
        text: `It worked longer than the ${spec.timeouts.runMs} ms of timeouts.run. ${lastSaid(attempt)} Raise it where the work really takes so long.`,
      }
    case 'start-timeout':
      return startTimeout(attempt, spec)
    case 'silence':
      return {
        cause: 'silence_timeout',
        text: `It hung, or worked in silence for longer than the ${spec.timeouts.silenceMs} ms of timeouts.silence. ${lastSaid(attempt)} A worker that prints progress events shows that it lives.`,
      }
    case 'output-limit':
      return {
        cause: 'output_limit',
        text: `It ${attempt.excess ?? 'said or left behind more than it may'}. ${lastSaid(attempt)} A worker that prints in a loop does so; raise the limit where there really is so much to say.`,
      }
    case 'output-lost':
      return {
        cause: 'output_lost',
        text: `Some of what its session worker printed never came here, and nothing was heard of the task after that: its finish seems to be among it. ${lastSaid(attempt)} The task's gap events say where; try it again.`,
      }
    case 'cancel':
    case null:
  }
  switch (end.kind) {
    case 'start-failed':
      return startFailed(end.failure)
    case 'unacknowledged':
      return {
        cause: 'unacknowledged',
        text: `${end.detail} A session worker answers its run command with any event of that task at once, within timeouts.acknowledge (${spec.timeouts.ackMs} ms).`,
      }
    case 'given-up':
      return {
        cause: 'given_up',
        text: `${end.detail} The task itself need not be at fault: it can be tried again.`,
      }
    case 'lost':
      return gone(end.detail)
    case 'worker-ended':
      return end.exit === null ? gone(end.detail) : exited(attempt, spec, end.exit)
    case 'finished':
    case 'exited':
  }
  if (
    end.kind === 'exited' &&
    end.cause !== null &&
    finish?.status !== 'failed' &&
    finish?.status !== 'completed'
  )
    return {
      cause: 'engine_stopped',
      text: `${end.cause} With live-restore in the engine's daemon.json workers outlive its restarts; retry.on: [engine] in the preset tries such tasks again.`,
    }
  if (finish?.status === 'completed')
    return {
      cause: 'output_lost',
      text: "The worker did its work, but some of what it printed never came here: a full disk of the engine, a log that was rotated, or an engine that was killed. The task's gap events say where; try it again.",
    }
  if (finish !== null) return said(attempt, spec)
  return end.kind === 'exited'
    ? exited(attempt, spec, end.exit)
    : { cause: 'reported', text: 'The worker ended the task.' }
}

function startFailed({ code, message, hint }: StartFailure): Diagnosis {
  const text = `${message} ${hint}`.trim()
  switch (code) {
    case 'IMAGE_NOT_FOUND':
    case 'PULL_FAILED':
      return { cause: 'image_missing', text }
    case 'COMMAND_NOT_FOUND':
    case 'NO_LOCAL_COMMAND':
      return { cause: 'command_missing', text }
    case 'GPU_UNAVAILABLE':
      return { cause: 'gpu_unavailable', text }
    case 'SECRET_UNAVAILABLE':
      return { cause: 'secret_unavailable', text }
    case 'START_LOST':
      return { cause: 'engine_stopped', text }
    case 'ENGINE_REFUSED':
    case 'ENGINE_UNAVAILABLE':
    case 'START_ABANDONED':
      return /no space left on device/i.test(message)
        ? {
            cause: 'disk_full',
            text: `The disk of the engine (or of the service's data) is full: ${message} Make room, for example with \`docker system prune\`.`,
          }
        : { cause: 'engine_refused', text }
  }
}

function startTimeout(attempt: AttemptEnd, spec: WorkerSpec): Diagnosis {
  const found = cueOf(attempt.lastWords)
  if (found !== null) return { cause: found.cause, text: found.text(spec, found.found) }
  return {
    cause: 'start_timeout',
    text: `The worker did not come up within the ${spec.timeouts.startMs} ms of timeouts.start. ${lastSaid(attempt)} A large model on a slow disk takes longer: raise it.`,
  }
}

function gone(detail: string): Diagnosis {
  return {
    cause: 'lost',
    text: `The worker is gone and nobody saw its end (${detail}). Somebody removed it by hand, or the machine was restarted; try it again.`,
  }
}

/** By the worker's own finish. */
function said(attempt: AttemptEnd, spec: WorkerSpec): Diagnosis {
  const { code, message } = attempt.finish?.error ?? { code: '', message: '' }
  if (BAD_INPUT_CODES.includes(code))
    return {
      cause: 'bad_input',
      text: `The worker refused the input: ${message} Send another one; trying the same again changes nothing.`,
    }
  const found = cueOf([message])
  if (found !== null) return { cause: found.cause, text: found.text(spec, found.found) }
  if (OUT_OF_MEMORY.test(message) || OUT_OF_MEMORY.test(code))
    return {
      cause: 'out_of_memory',
      text: `The worker ran out of memory: ${message} Take a smaller model or batch, or raise resources.memory.`,
    }
  return {
    cause: 'reported',
    text:
      message === ''
        ? 'The worker said that the task failed, without saying why; its last lines may.'
        : `The worker said why: ${message}`,
  }
}

function exited(
  attempt: AttemptEnd,
  spec: WorkerSpec,
  { exitCode, oomKilled }: { readonly exitCode: number | null; readonly oomKilled: boolean },
): Diagnosis {
  if (oomKilled && exitCode !== 0)
    return {
      cause: 'out_of_memory',
      text:
        spec.limits.memoryMb === null
          ? 'The kernel killed the worker because the host had no memory left. Run less at a time, or take a smaller model.'
          : `The kernel killed the worker because it used more than the ${spec.limits.memoryMb} MB of resources.memory. Raise that, or take a smaller model or batch.`,
    }
  if (exitCode === 0 && attempt.isInDoubt)
    return {
      cause: 'output_lost',
      text: "The worker ended as if all were well, but its finish event never came here: an engine that was killed or a full disk of it has probably taken the last lines. The task's events say what happened; try it again.",
    }
  if (exitCode === 0)
    return {
      cause: 'no_finish',
      text: 'The program ended as if all were well, but printed no valid finish event: {"event": "finish", "status": "completed"}, flushed, as its last line.',
    }
  const found = cueOf(attempt.lastWords)
  if (found !== null) return { cause: found.cause, text: found.text(spec, found.found) }
  const signal = signalOf(exitCode)
  const crash = signal === null ? undefined : CRASHES[signal]
  if (crash !== undefined)
    return {
      cause: 'crashed',
      text: `The worker crashed with ${signal}: ${crash}. Its last lines on stderr may say where; a newer version of its libraries, or another quantisation of the model, often helps.`,
    }
  if (signal === 'SIGKILL' || signal === 'SIGTERM')
    return {
      cause: 'killed',
      text: `Somebody outside of this service ended the worker with ${signal}: \`docker kill\` or \`docker stop\` by hand, an engine that was stopped without live-restore, or the host's kernel for want of memory (its log tells). Try it again.`,
    }
  const last = attempt.lastWords.findLast((line) => line.trim() !== '')
  const how = exitCode === null ? 'ended in an unknown way' : `exited with ${exitText(exitCode)}`
  return {
    cause: 'exited',
    text:
      last === undefined
        ? `The worker ${how} and said nothing on stderr. Run it alone, as its README says, and see what it prints.`
        : `The worker ${how}; its last word was: ${last.trim().slice(0, MAX_FOUND)}`,
  }
}

function cueOf(lines: readonly string[]): (Cue & { readonly found: string }) | null {
  for (const cue of CUES) {
    const found = lines.flatMap((line) => cue.cue.exec(line)?.[0] ?? []).at(-1)
    if (found !== undefined) return { ...cue, found: found.trim().slice(0, MAX_FOUND) }
  }
  return null
}

function lastSaid({ lastWords }: AttemptEnd): string {
  const last = lastWords.findLast((line) => line.trim() !== '')
  return last === undefined
    ? 'It wrote nothing on stderr.'
    : `Its last word on stderr was: ${last.trim().slice(0, MAX_FOUND)}`
}
