import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { presetFileSchema } from './json-schema.ts'

const file = join(import.meta.dirname, '..', 'model-presets.schema.json')
await writeFile(file, `${JSON.stringify(presetFileSchema(), null, 2)}\n`)
