export { createDockerRunner, type DockerRunnerOptions } from './docker-runner.ts'
