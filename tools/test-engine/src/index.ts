export { clientOf } from './client.ts'
export { type OpenTestEngine, type TestEngine, isEngineShared, openTestEngine, testEngine } from './engine.ts'
export {
  BASE_IMAGE,
  BUSYBOX_IMAGE,
  CHAOS_WORKER_IMAGE,
  LLAMA_WORKER_IMAGE,
  LOADING_WORKER_IMAGE,
  NODE_IMAGE,
  SERVICE_IMAGE,
  SESSION_WORKER_IMAGE,
  TEXT_TRAINER_IMAGE,
  type TestImage,
  ensureTestImage,
} from './images.ts'
export { type EngineSnapshot, leaksSince, takeSnapshot } from './leaks.ts'
export {
  NoEngineError,
  privateEngineObstacle,
  type PrivateEngine,
  type PrivateEngineOptions,
  startPrivateEngine,
} from './private-engine.ts'
