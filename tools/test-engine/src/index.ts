export { type OpenTestEngine, type TestEngine, isEngineShared, openTestEngine, testEngine } from './engine.ts'
export {
  BASE_IMAGE,
  BUSYBOX_IMAGE,
  CHAOS_WORKER_IMAGE,
  LOADING_WORKER_IMAGE,
  SESSION_WORKER_IMAGE,
  type TestImage,
  ensureTestImage,
} from './images.ts'
export { type EngineSnapshot, leaksSince, takeSnapshot } from './leaks.ts'
export {
  NoEngineError,
  type PrivateEngine,
  type PrivateEngineOptions,
  privateEngineObstacle,
  startPrivateEngine,
} from './private-engine.ts'
