export { openArtifactFiles, type ArtifactFolder } from './artifact-files.ts'
