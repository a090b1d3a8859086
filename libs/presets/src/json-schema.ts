import type { JsonObject } from '@gpu-service/tasks'
import { presetFile } from './preset-format.ts'

/** The JSON Schema of model_presets.yaml, for editors. It knows the syntax of the file, not what is on the host. */
export function presetFileSchema(): JsonObject {
  return {
    $schema: 'http://json-schema.org/draft-07/schema#',
    title: 'Presets of the GPU Service',
    ...presetFile.schema,
  }
}
