#!/usr/bin/env node
import { connectEngine } from './engine.mjs'
import { ensureWorkerImage } from './images.mjs'

// Builds a worker package's image where the engine does not have it: worker-image.mjs FOLDER IMAGE
const [folder, image] = process.argv.slice(2)
if (folder === undefined || image === undefined) {
  console.error('usage: worker-image.mjs FOLDER IMAGE')
  process.exit(2)
}
try {
  await ensureWorkerImage(await connectEngine(), { folder, image, log: (line) => console.log(line) })
} catch (error) {
  console.error(`${image}: cannot be built: ${error.message} ${error.hint ?? ''}`)
  process.exitCode = 1
}
