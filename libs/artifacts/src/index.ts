export { openArtifactFiles, type ArtifactFolder } from './artifact-files.ts'
export { artifactsWithoutFile, copyArtifactFiles } from './copy-files.ts'
