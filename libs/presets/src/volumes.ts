import { list, mapping } from './collections.ts'
import type { HostPath } from './report.ts'
import { flag, text } from './scalars.ts'
import { checked, complain, mapped, optional, required } from './shape.ts'
import type { Shape } from './shape.ts'

/**
 * A pattern of paths without a slash in front, without empty, `.` and `..` parts, and without characters that are not seen or change the
 * direction of what is shown.
 */
export const PATH = String.raw`(?!\.{1,2}(?:/|$))[^/\\\u0000-\u001f\u007f-\u009f\u200e\u200f\u2028-\u202e\u2066-\u2069]+(?:/(?!\.{1,2}(?:/|$))[^/\\\u0000-\u001f\u007f-\u009f\u200e\u200f\u2028-\u202e\u2066-\u2069]+)*`
/** Folders that a volume may neither be nor be in: the engine's and the service's own. */
const RESERVED_TREES = ['/models', '/task', '/run/secrets', '/proc', '/sys', '/dev']
/** Folders that a volume may be in, but not hide. */
const RESERVED_FOLDERS = [
  '/',
  '/bin',
  '/boot',
  '/cache',
  '/etc',
  '/home',
  '/home/worker',
  '/lib',
  '/lib64',
  '/root',
  '/run',
  '/sbin',
  '/tmp',
  '/usr',
  '/var',
]

const ABSOLUTE = `^/(?:${PATH})?$`

/** A volume as it is written, before its source is looked for on the host. */
export interface WrittenVolume {
  readonly source: HostPath
  readonly target: string
  readonly readOnly: boolean
}

const hostPath = (shape: Shape<string>): Shape<HostPath> => ({
  ...shape,
  read(place, report) {
    const path = shape.read(place, report)
    if (path === undefined) return undefined
    const found = { path, keyPath: place.path, at: place.tree.at }
    report.lookFor(found)
    return found
  },
})

const volume = mapped(
  mapping('a mapping such as {source: /data/sets, target: /sets}', {
    source: required(
      hostPath(
        text({
          expected: 'an absolute path on the host without "." or ".." in it',
          pattern: ABSOLUTE,
          maxLength: 1_024,
        }),
      ),
      'A folder or file of the host. It must exist and lie in a folder that the service allows to be mounted.',
    ),
    target: required(
      text({
        expected: 'an absolute path in the container without "." or ".." in it',
        pattern: ABSOLUTE,
        maxLength: 1_024,
        refuse: (path) =>
          RESERVED_FOLDERS.includes(path) || RESERVED_TREES.some((tree) => `${path}/`.startsWith(`${tree}/`))
            ? `nothing may be mounted at ${path}`
            : null,
      }),
      'Where the worker finds it. Not in /models, /task, /run/secrets, /proc, /sys or /dev, and not a folder of the system itself.',
    ),
    read_only: optional(flag, true, 'false lets workers write to it.'),
  }),
  ({ source, target, read_only }): WrittenVolume => ({ source, target, readOnly: read_only }),
)

/** The `volumes` of a preset. */
export const volumes = checked(
  list(volume, { expected: 'a list of mappings such as [{source: /data/sets, target: /sets}]', max: 32 }),
  (all, place, report) => {
    const targets = new Set<string>()
    for (const { target } of all) {
      if (targets.has(target)) complain(place, report, `two volumes have the target ${target}`)
      targets.add(target)
    }
  },
)
