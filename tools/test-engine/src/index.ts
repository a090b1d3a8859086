export { type OpenTestEngine, type TestEngine, isEngineShared, openTestEngine, testEngine } from './engine.ts'
export {
  BASE_IMAGE,
  BUSYBOX_IMAGE,
  LOADING_WORKER_IMAGE,
  SESSION_WORKER_IMAGE,
  type TestImage,
} from './images.ts'
export { type EngineSnapshot, leaksSince, takeSnapshot } from './leaks.ts'
export {
  NoEngineError,
  type PrivateEngine,
  type PrivateEngineOptions,
  startPrivateEngine,
} from './private-engine.ts'
