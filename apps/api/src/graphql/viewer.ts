import { accountOf, type KeyLimits, LIMIT_NAMES, mayUse, type PresetId } from '@gpu-service/tasks'
import { newTokenId } from '../access/browser-token.ts'
import { problemOfLimits, problemOfNewKey, WORD, WORD_TEXT } from '../access/new-key.ts'
import { refusal } from './errors.ts'
import type {
  ApiKeyLimitsInput,
  ApiKeyResolvers,
  MutationResolvers,
  QueryResolvers,
} from './generated/resolvers.ts'
import { unknownPresetProblem, unknownTaskProblem } from './problem.ts'
import { hiddenPresetText, visibleTask } from './visibility.ts'

const MIN_TOKEN_SECONDS = 10
const MAX_TOKEN_SECONDS = 86_400

export const viewerQueries = {
  viewer: (_parent, _args, { principal }) => principal,
  apiKeys: (_parent, _args, { keys }) => [...keys.list()],
} satisfies QueryResolvers

export const viewerMutations = {
  async createApiKey(_parent, { input }, { keys, actor }) {
    const { name, role, owner } = input
    const presets = (input.presets ?? null) as readonly PresetId[] | null
    const limits = limitsOf(input.limits ?? {})
    const asked = { name, role, owner, presets, limits, expiresAt: input.expiresAt ?? null }
    const problem = problemOfNewKey(asked, Date.now())
    if (problem !== null) throw refusal('BAD_USER_INPUT', problem)
    return keys.create(asked, actor)
  },
  async revokeApiKey(_parent, { id }, { keys, actor }) {
    const key = await keys.revoke(id, actor)
    return key === null ? unknownApiKeyProblem(id) : { __typename: 'RevokeApiKeySuccess' as const, key }
  },
  async setApiKeyLimits(_parent, { id, limits }, { keys, actor }) {
    const given = limitsOf(limits)
    const problem = problemOfLimits(given)
    if (problem !== null) throw refusal('BAD_USER_INPUT', problem)
    const key = await keys.setLimits(id, given, actor)
    return key === null ? unknownApiKeyProblem(id) : { __typename: 'SetApiKeyLimitsSuccess' as const, key }
  },
  async createBrowserToken(_parent, { input }, context) {
    const { principal, keys, presets } = context
    const { taskId = null, presetId = null, subject = null, role, expiresInSeconds } = input
    if (principal.kind === 'token') throw refusal('FORBIDDEN', 'A browser token cannot make another one.')
    require((taskId === null) !== (presetId === null), 'Either taskId or presetId must be given.')
    require(role === 'read' || role === 'submit', 'role must be READ or SUBMIT.')
    require(subject === null ||
      (presetId !== null &&
        WORD.test(subject)), `subject must have ${WORD_TEXT}, and goes with presetId only.`)
    require(expiresInSeconds >= MIN_TOKEN_SECONDS &&
      expiresInSeconds <=
        MAX_TOKEN_SECONDS, `expiresInSeconds must lie between ${MIN_TOKEN_SECONDS} and ${MAX_TOKEN_SECONDS}.`)
    const id = newTokenId()
    let owner = `${accountOf(principal.owner)}/${subject ?? id}`
    if (taskId !== null) {
      const task = await visibleTask(taskId, context)
      if (task === null) return unknownTaskProblem(taskId)
      ;({ owner } = task)
    } else if (presetId !== null && (!mayUse(principal, presetId) || presets.preset(presetId) === null))
      return unknownPresetProblem(presetId, hiddenPresetText(presetId))
    const expiresAt = Date.now() + expiresInSeconds * 1_000
    const token = keys.sign({
      ...{ id, keyId: principal.id, owner, taskId, presetId, expiresAt },
      role: role === 'submit' ? 'submit' : 'read',
    })
    return { __typename: 'CreateBrowserTokenSuccess' as const, token, expiresAt, owner }
  },
} satisfies MutationResolvers

/** Without those that are not given; `null` is given: no limit. */
function limitsOf(input: ApiKeyLimitsInput): Partial<KeyLimits> {
  const given = LIMIT_NAMES.flatMap((name) => (input[name] === undefined ? [] : [[name, input[name]]]))
  return Object.fromEntries(given) as Partial<KeyLimits>
}

function unknownApiKeyProblem(id: string) {
  return { __typename: 'UnknownApiKeyProblem', message: `There is no API key ${id}.`, id } as const
}

/** Of ApiKey. */
export const apiKey = {
  limits: ({ id }, _args, { keys }) => keys.limitsOf(id),
  use: ({ id }, _args, { dispatcher, meters }) => ({ ...dispatcher.keyUse(id), ...meters.openOf(id) }),
} satisfies ApiKeyResolvers

function require(condition: boolean, message: string): asserts condition {
  if (!condition) throw refusal('BAD_USER_INPUT', message)
}
