import { setTimeout as sleep } from 'node:timers/promises'
import type { WorkerInput, WorkerOutput, WorkerRunner } from '@gpu-service/tasks'
import type { Ports } from '../../src/start.ts'
import { FAILPOINT_VARIABLE, type Failpoint, type Heard, type Told } from './protocol.ts'
import { outputStep, stepOf } from './steps.ts'

/** Puts a failpoint before and after every call of the domain's ports that takes its time; which one is set, the test tells over IPC. */
export function withFailpoints(ports: Ports): Ports {
  const failpoints = new Failpoints()
  const runner = failpoints.around('runner', ports.runner)
  return {
    store: failpoints.around('store', ports.store),
    runner: new Proxy(runner, {
      get: (target, name): unknown => {
        if (name === 'output') return outputWith(failpoints, ports.runner)
        if (name === 'openInput') return inputWith(failpoints, target)
        return Reflect.get(target, name)
      },
    }),
    gpus: failpoints.around('gpus', ports.gpus),
    presets: failpoints.around('presets', ports.presets),
    artifactFiles: failpoints.around('artifactFiles', ports.artifactFiles),
  }
}

class Failpoints {
  #set: Failpoint | null = null
  #passed = 0
  #steps: string[] = []

  constructor() {
    const first = process.env[FAILPOINT_VARIABLE]
    if (first !== undefined) this.#set = JSON.parse(first) as Failpoint
    process.on('message', (told: Told) => {
      process.send?.(this.#hear(told))
    })
    // Listening must not keep the process alive.
    process.channel?.unref()
  }

  #hear(told: Told): Heard {
    if ('tell' in told) return { steps: this.#steps }
    if ('set' in told) {
      this.#set = told.set
      this.#passed = 0
    } else this.#steps = []
    return { done: true }
  }

  /** Its methods that give a promise, with their failpoints. */
  around<T extends object>(port: string, target: T): T {
    return new Proxy(target, {
      get: (object, name): unknown => {
        const member: unknown = Reflect.get(object, name, object)
        if (typeof member !== 'function' || typeof name !== 'string') return member
        return (...args: unknown[]): unknown => {
          const step = stepOf(port, name, args)
          if (this.#isAt(step, 'before'))
            return this.#act().then(() => Reflect.apply(member, object, args) as unknown)
          const answer: unknown = Reflect.apply(member, object, args)
          if (!(answer instanceof Promise)) return answer
          this.#steps.push(step)
          return answer.then(async (value: unknown) => {
            await this.reach(step, 'after')
            return value
          })
        }
      },
    })
  }

  note(step: string): void {
    this.#steps.push(step)
  }

  async reach(step: string, side: Failpoint['side']): Promise<void> {
    if (this.#isAt(step, side)) await this.#act()
  }

  #isAt(step: string, side: Failpoint['side']): boolean {
    if (this.#set?.step !== step || this.#set.side !== side) return false
    return ++this.#passed === this.#set.n
  }

  async #act(): Promise<void> {
    const { action, step, side } = this.#set ?? { action: { kind: 'throw' }, step: '', side: '' }
    this.#set = null
    switch (action.kind) {
      case 'kill':
        process.kill(process.pid, 'SIGKILL')
        break
      case 'throw':
        throw new Error(`failpoint ${side} ${step}`)
      case 'hang':
        await sleep(action.ms)
    }
  }
}

/** Each thing that a worker says is a step: before the domain hears of it, and after it has made something of it. Nothing comes after the last. */
function outputWith(failpoints: Failpoints, runner: WorkerRunner): WorkerRunner['output'] {
  return async function* (name, options): AsyncGenerator<WorkerOutput> {
    for await (const item of runner.output(name, options)) {
      const step = outputStep(item)
      failpoints.note(step)
      await failpoints.reach(step, 'before')
      yield item
      await failpoints.reach(step, 'after')
    }
  }
}

function inputWith(failpoints: Failpoints, runner: WorkerRunner): WorkerRunner['openInput'] {
  return async (name): Promise<WorkerInput> => failpoints.around('input', await runner.openInput(name))
}
