// Of the packages that the engine's process has, what it uses.

declare module 'bare-pipe' {
  export default class Pipe {
    constructor(descriptor: number)
    write(data: string): void
    on(event: 'data', listener: (bytes: Buffer) => void): this
    on(event: 'close' | 'end', listener: () => void): this
    on(event: 'error', listener: (error: Error) => void): this
  }
}

declare module 'bare-os' {
  export function kill(pid: number, signal: string): void
  export function pid(): number
}

declare module '@qvac/diffusion-cpp' {
  interface Response {
    onUpdate(listener: (update: Uint8Array | string) => void): this
    await(): Promise<unknown>
  }

  export class ImgStableDiffusion {
    constructor(options: {
      readonly files: { readonly model: string }
      readonly config: Readonly<Record<string, string | number | boolean>>
    })
    /** Keeps the thread until it has ended. */
    load(): Promise<void>
    run(job: Readonly<Record<string, unknown>>): Promise<Response>
    cancel(): Promise<void>
  }
}

declare module '@qvac/diffusion-cpp/addonLogging' {
  /** The most important ones have priority 0. */
  export function setLogger(listener: (priority: number, text: string) => void): void
}
