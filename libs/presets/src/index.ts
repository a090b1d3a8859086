export { openPresetCatalog, type PresetCatalogOptions } from './catalog.ts'
export { presetIssueText } from './report.ts'
