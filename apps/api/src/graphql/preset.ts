import { gpuCount } from '@gpu-service/tasks'
import type { MutationResolvers, PresetResolvers, QueryResolvers } from './generated/resolvers.ts'

export const presetQueries = {
  presets: (_parent, _args, { presets }) => presets.presets(),
  preset: (_parent, { id }, { presets }) => presets.preset(id),
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
  gpuCount: ({ spec }, _args, { gpus }) => gpuCount(spec.gpus, gpus.list()),
} satisfies PresetResolvers
