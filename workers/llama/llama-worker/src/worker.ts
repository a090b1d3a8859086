import { serve, type Task } from '@gpu-service/worker'
import { embed, type Embedded } from './embed.ts'
import { type Engine, openEngine } from './engine.ts'
import { generate, type Generated } from './generate.ts'
import { parseInput } from './input.ts'
import { readSettings } from './settings.ts'

const settings = readSettings(process.env)

async function run(task: Task<Engine>): Promise<Generated | Embedded> {
  const request = parseInput(task.input)
  return request.kind === 'embeddings' ? embed(task, request.texts) : generate(task, request)
}

await serve({ load: (report) => openEngine(settings, report), run, slots: settings.slots })
