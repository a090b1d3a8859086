export { openPresetCatalog, type PresetCatalogOptions } from './catalog.ts'
export { type ParseOptions, parsePresetFile } from './preset-file.ts'
export { createSecretSources, type SecretPolicy } from './secret-sources.ts'
export { presetIssueText } from './report.ts'
