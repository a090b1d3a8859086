import {
  gpuCount,
  mayUse,
  relaxationsOf,
  type Preset as DomainPreset,
  type Principal,
  type WorkerFacts,
} from '@gpu-service/tasks'
import type { Context } from './context.ts'
import type { MutationResolvers, PresetResolvers, QueryResolvers } from './generated/resolvers.ts'

export const presetQueries = {
  presets: (_parent, _args, { presets, principal }) =>
    presets.presets().filter(({ id }) => isShown(id, principal)),
  preset: (_parent, { id }, { presets, principal }) => (isShown(id, principal) ? presets.preset(id) : null),
} satisfies QueryResolvers

export const presetMutations = {
  async reloadPresets(_parent, _args, { presets }) {
    const result = await presets.reload()
    if (result.status === 'reloaded') {
      return { __typename: 'ReloadPresetsSuccess', ...result.diff, presets: presets.presets() }
    }
    const { issues } = result
    const first = issues[0]
    const where =
      first === undefined
        ? ''
        : ` The first one is at ${first.file}:${first.line}:${first.column}: ${first.message}`
    return {
      __typename: 'InvalidPresetsProblem',
      message: `The presets file has ${issues.length} problem(s); the presets that were in force stay.${where}`,
      issues,
    }
  },
} satisfies MutationResolvers

export const Preset = {
  model: ({ spec }) => spec.model,
  kind: ({ spec }) => spec.kind,
  dockerImage: ({ spec }) => spec.image,
  command: ({ spec }) => spec.command,
  mode: ({ spec }) => spec.mode,
  relaxations: ({ spec }) => relaxationsOf(spec),
  gpuCount: ({ spec }, _args, { dispatcher }) => gpuCount(spec.gpus, dispatcher.gpus()),
  gpuShare: ({ spec }) => spec.gpus.share,
  gpuMemoryMb: ({ spec }) => spec.gpus.memoryMb,
  gpuNames: ({ spec }) => spec.gpus.names,
  learnedMemoryMb: (preset, _args, context) => learnedMemoryMb(preset, context),
  claimMemoryMb(preset, _args, context) {
    const { gpus } = preset.spec
    if (gpus.share === 'exclusive' || gpuCount(gpus, context.dispatcher.gpus()) === 0) return null
    const learned = learnedMemoryMb(preset, context)
    return learned === null ? gpus.memoryMb : Math.max(gpus.memoryMb ?? 0, learned)
  },
  loadMs: (preset, _args, context) => whole(factsOf(preset, context).loadMs?.middle),
  runMs: (preset, _args, context) => whole(factsOf(preset, context).runMs?.middle),
  timeouts: ({ spec }) => spec.timeouts,
  retry: ({ spec }) => spec.retry,
  session: ({ spec }) => spec.session,
} satisfies PresetResolvers

/** Who may see one task has no use for what others are started with. */
function isShown(id: string, principal: Principal): boolean {
  return principal.taskId === null && mayUse(principal, id)
}

function factsOf(preset: DomainPreset, { dispatcher }: Context): WorkerFacts {
  return dispatcher.factsOfPreset(preset)
}

/** A need is rounded up. */
function learnedMemoryMb(preset: DomainPreset, context: Context): number | null {
  const { learnedMemoryMb } = factsOf(preset, context)
  return learnedMemoryMb === null ? null : Math.ceil(learnedMemoryMb)
}

function whole(amount: number | undefined): number | null {
  return amount === undefined ? null : Math.round(amount)
}
