import type { SecretReference } from '@gpu-service/tasks'
import { record } from './collections.ts'
import type { NameRules } from './collections.ts'
import { checked, complain, mapped } from './shape.ts'
import type { Shape } from './shape.ts'
import { PATH } from './volumes.ts'

const NAME = '^[A-Za-z0-9_][A-Za-z0-9._-]{0,63}$'
const NAMES: NameRules = {
  pattern: NAME,
  refuse: (name) =>
    new RegExp(NAME, 'u').test(name)
      ? null
      : 'the name of a secret has 1 to 64 letters, digits, dots, dashes or underscores and begins with no dot or dash',
}

const VARIABLE = 'env:([A-Za-z_][A-Za-z0-9_]{0,127})'
const SOURCE = `^(?:${VARIABLE}|(/${PATH}))$`
const MAX_SOURCE = 1_024
const MAX_SECRETS = 32
const EXPECTED =
  'the absolute path of a file on the host without "." or ".." in it, or env: and the name of a variable of the service'

type Source = Omit<SecretReference, 'name'>

/** No message shows what stands there: it may be the secret itself, written here by mistake. */
const source: Shape<Source> = {
  expected: EXPECTED,
  schema: {
    type: 'string',
    maxLength: MAX_SOURCE,
    pattern: SOURCE,
    examples: ['/run/credentials/hf-token', 'env:WORKER_SECRET_HF_TOKEN'],
  },
  read(place, report) {
    const text = place.tree.kind === 'text' && place.tree.text.length <= MAX_SOURCE ? place.tree.text : ''
    const [, variable, file] = new RegExp(SOURCE, 'u').exec(text) ?? []
    const found: Source | undefined =
      variable !== undefined
        ? { from: 'variable', source: variable }
        : file !== undefined
          ? { from: 'file', source: file }
          : undefined
    if (found === undefined) complain(place, report, `expected ${EXPECTED}; the value itself stays there`)
    else report.lookForSecret({ ...found, keyPath: place.path, at: place.tree.at })
    return found
  },
}

const sources = record(source, {
  expected: 'a mapping of names to sources such as {hf-token: /run/credentials/hf-token}',
  names: NAMES,
})

/** The `secrets` of a preset, in the order of their names. */
export const secrets: Shape<readonly SecretReference[]> = checked(
  mapped({ ...sources, schema: { ...sources.schema, maxProperties: MAX_SECRETS } }, (named) =>
    named.map(({ name, value }) => ({ name, ...value })).sort((a, b) => (a.name < b.name ? -1 : 1)),
  ),
  (all, place, report) => {
    if (all.length > MAX_SECRETS)
      complain(place, report, `names ${all.length} secrets; there may be ${MAX_SECRETS}`)
  },
)
