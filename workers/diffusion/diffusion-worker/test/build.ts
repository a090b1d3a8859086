import { execFile } from 'node:child_process'
import { mkdir } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { promisify } from 'node:util'
import { writeTinyModel } from './tiny-model.ts'

export const FOLDER = join(import.meta.dirname, '..')
/** What Docker builds the image from. */
export const DIST = join(FOLDER, 'dist/cpu')
export const MODELS = join(FOLDER, 'dist/models')
export const MODEL = join(MODELS, 'stable-diffusion/v1-5.gguf')

/** A global setup for Vitest: the worker with its engine, from the registry where an earlier run has not left it, and a model. */
export async function setup(): Promise<void> {
  await promisify(execFile)(process.execPath, [join(FOLDER, 'build.mjs')])
  await mkdir(dirname(MODEL), { recursive: true })
  await writeTinyModel(MODEL)
}
