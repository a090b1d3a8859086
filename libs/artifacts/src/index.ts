export {
  openArtifactFiles,
  type ArtifactFolder,
  type Received,
  artifactsWithoutFile,
} from './artifact-files.ts'
export { copyArtifactFiles } from './copy-files.ts'
