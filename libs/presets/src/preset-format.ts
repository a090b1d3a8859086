import type { WorkerMode } from '@gpu-service/tasks'
import { list, mapping, record } from './collections.ts'
import type { NamedValue, NameRules } from './collections.ts'
import { environment } from './environment.ts'
import { gpus } from './gpus.ts'
import { inputSchema } from './input-schema.ts'
import { size } from './quantity.ts'
import { retry } from './retry.ts'
import { choice, flag, number, text, writtenText } from './scalars.ts'
import { secrets } from './secrets.ts'
import { session } from './session.ts'
import { absentable, checked, complain, complainOfKey, hasKey, optional, required } from './shape.ts'
import type { Shape } from './shape.ts'
import { timeouts } from './timeouts.ts'
import { PATH, volumes } from './volumes.ts'

/*
 * The format of model_presets.yaml. Every key has its meaning, its bounds and its default here, or in the file of its mapping, and nowhere
 * else: the file is read by these shapes, and the JSON Schema for editors is written from them.
 */

const MAX_MEBIBYTES = 16 * 1024 * 1024

const NAME = '^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$'
const NAMES: NameRules = {
  pattern: NAME,
  refuse: (name) =>
    new RegExp(NAME, 'u').test(name)
      ? null
      : 'a name has 1 to 64 letters, digits, dots, dashes or underscores and begins with a letter or digit',
}

// The grammar of image references: [host[:port]/]path[:tag][@digest], the path in lower case.
const IMAGE_HOST = String.raw`(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*(?::[0-9]{1,5})?/)?`
const IMAGE_PART = String.raw`[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*`
const IMAGE = String.raw`^${IMAGE_HOST}${IMAGE_PART}(?:/${IMAGE_PART})*(?::\w[\w.-]{0,127})?(?:@[A-Za-z][A-Za-z0-9+._-]*:[0-9a-fA-F]{32,128})?$`

const image = text({
  expected:
    'an image reference such as "loading-worker:latest" or "registry.example.com:5000/team/llama:2.1"',
  pattern: IMAGE,
  maxLength: 255,
})

function commandLine(example: string): Shape<readonly string[]> {
  return checked(
    list(writtenText(32_768), {
      expected: `a list of texts such as ${example}`,
      max: 256,
      insteadOf: (line) =>
        /^[\w./:=@ -]+$/.test(line)
          ? `write [${line
              .trim()
              .split(/ +/)
              .map((word) => JSON.stringify(word))
              .join(', ')}]`
          : `write one entry per argument, or ["sh", "-c", "…"] for a shell`,
    }),
    (words, place, report) => {
      if (words[0] === '') complain(place, report, 'the first entry names the program and may not be empty')
    },
  )
}

const mebibytes = size({ minMb: 1, maxMb: MAX_MEBIBYTES, range: 'from 1MiB to 16TiB', of: 'limit' })
const resources = mapping('a mapping such as {memory: 32GiB}', {
  memory: absentable(
    size({ minMb: 16, maxMb: MAX_MEBIBYTES, range: 'from 16MiB to 16TiB', of: 'limit' }),
    'Main memory; a worker that takes more is killed. Absent: no limit.',
  ),
  cpus: absentable(
    number({ min: 0.01, max: 1_024, whole: false }),
    'CPU cores, fractions allowed. Absent: no limit.',
  ),
  processes: optional(
    number({ min: 1, max: 4_194_304, whole: true }),
    4_096,
    'Processes and threads together.',
  ),
  shared_memory: optional(
    mebibytes,
    '1GiB',
    'Size of /dev/shm, through which data loaders hand over batches.',
  ),
  tmp: optional(mebibytes, '1GiB', 'Size of the in-memory /tmp, and of the in-memory home folder.'),
})

const output = mapping('a mapping such as {size: 64MiB}', {
  size: optional(mebibytes, '256MiB', 'What is kept of its events and lines.'),
  events: optional(
    number({ min: 1, max: 100_000_000, whole: true }),
    5_000_000,
    'Its events, lines included.',
  ),
  artifacts: optional(number({ min: 0, max: 1_000_000, whole: true }), 10_000, 'The files that it leaves.'),
  artifacts_size: optional(mebibytes, '10GiB', 'All of these files together.'),
})

// What Docker itself gives a container, and what training needs beyond it. Those that reach the host (SYS_ADMIN, SYS_MODULE, …) are not here.
const CAPABILITIES = [
  'AUDIT_WRITE',
  'CHOWN',
  'DAC_OVERRIDE',
  'FOWNER',
  'FSETID',
  'IPC_LOCK',
  'KILL',
  'MKNOD',
  'NET_BIND_SERVICE',
  'NET_RAW',
  'SETFCAP',
  'SETGID',
  'SETPCAP',
  'SETUID',
  'SYS_CHROOT',
  'SYS_NICE',
  'SYS_PTRACE',
  'SYS_RESOURCE',
]

const allow = mapping('a mapping such as {writable_root: true}', {
  user: absentable(
    text({
      expected: 'numbers for user and group such as "1000:1000", in quotes',
      pattern: '^[0-9]{1,9}:[0-9]{1,9}$',
      maxLength: 19,
      examples: ['1000:1000'],
    }),
    'Runs the worker as this user and group instead of 65534:65534. "0:0" is root inside the container.',
  ),
  writable_root: optional(flag, false, "Lets the worker write anywhere in its own container's file system."),
  capabilities: optional(
    list(choice(Object.fromEntries(CAPABILITIES.map((name) => [name, name]))), {
      expected: 'a list of capabilities without CAP_ such as [IPC_LOCK]',
      max: CAPABILITIES.length,
      distinct: true,
    }),
    [],
    'Linux capabilities that the worker keeps; by default it has none.',
  ),
})

const PRESET = {
  docker_image: required(image, 'The image that workers are started from.'),
  command: optional(
    commandLine('["python", "/app/worker.py"]'),
    [],
    "The program and its arguments, each an entry of its own; no shell is involved. Absent: the image's own command.",
  ),
  env_vars: optional(
    environment,
    {},
    'Environment variables. They win over MODEL_NAME, MODEL_PATH and others that the service sets itself.',
  ),
  secrets: optional(
    secrets,
    {},
    'What workers find as files in SECRETS_DIR, by name: where each value is, never the value.',
  ),
  description: absentable(
    text({ expected: 'a text', maxLength: 2_000 }),
    'What the preset is for, shown to those who choose one.',
  ),
  mode: optional(
    choice<WorkerMode>({ 'one-off': 'ONE_OFF', session: 'SESSION' }),
    'one-off',
    'one-off: a worker exits after its task. session: it keeps its model loaded and takes the next task.',
  ),
  gpus: optional(gpus, {}, 'The GPUs that a worker needs.'),
  model_path: absentable(
    text({
      expected: 'a path below the models folder without "." or ".." in it, such as llama/7b',
      pattern: `^${PATH}$`,
      maxLength: 512,
    }),
    "The folder or file below the models folder that the worker's MODEL_PATH points at. Absent: the models folder itself.",
  ),
  model_name: absentable(
    text({ expected: 'a text', maxLength: 256 }),
    "The worker's MODEL_NAME, where it is not the name of the model here.",
  ),
  input: absentable(
    inputSchema,
    'JSON Schema (2020-12, or draft-07 by its $schema) of the input that a task must have.',
  ),
  timeouts: optional(timeouts, {}, 'Deadlines.'),
  retry: optional(retry, {}, 'Whether and when a task that has failed is tried again.'),
  session: optional(session, {}, 'How the workers of a preset with `mode: session` live; only there.'),
  resources: optional(resources, {}, 'Limits of each worker.'),
  output: optional(output, {}, 'How much an attempt of a task may say and leave behind; then it is stopped.'),
  network: optional(
    choice({ none: 'none', bridge: 'bridge' } as const),
    'none',
    'none: the worker reaches nothing. bridge: it reaches what the Docker bridge network reaches.',
  ),
  volumes: optional(volumes, [], 'Folders of the host that workers see.'),
  local: absentable(
    commandLine('["python3", "worker.py"]'),
    "What runs on a machine without Docker, in place of the worker package's own local command.",
  ),
  pull: optional(
    choice({ never: 'never', missing: 'missing' } as const),
    'never',
    'never: an image that is not there is an error. missing: it is pulled first.',
  ),
  allow: optional(allow, {}, 'What of the confinement of workers this preset relaxes.'),
}

const preset = checked(mapping('a mapping with docker_image', PRESET), ({ mode }, place, report) => {
  if (mode !== 'SESSION' && hasKey(place, 'session'))
    complainOfKey(place, 'session', report, 'has no meaning without `mode: session`')
})

/** A preset as it is written: each key with its value or its default. */
export type WrittenPreset = typeof preset extends Shape<infer T> ? T : never

/** What a presets file holds: `models.<model>.<kind>`. */
export const presetFile: Shape<{
  readonly models: readonly NamedValue<readonly NamedValue<WrittenPreset>[]>[]
}> = mapping('a mapping with the key models', {
  models: optional(
    record(record(preset, { expected: 'a mapping of kinds such as inference', names: NAMES, min: 1 }), {
      expected: 'a mapping of models',
      names: NAMES,
    }),
    {},
    'The models, each with its kinds of work. A preset is known as <model>/<kind>.',
  ),
})
