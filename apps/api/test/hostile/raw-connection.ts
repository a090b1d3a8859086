import { connect, type Socket } from 'node:net'

/** A connection on which the test says every byte. */
export class RawConnection implements Disposable {
  readonly socket: Socket
  /** All that has come, a character for each byte. */
  received = ''
  /** Resolves when the connection is over, whoever ended it. */
  readonly closed: Promise<void>
  #heard = (): void => undefined

  constructor({ port }: { readonly port: number }) {
    this.socket = connect({ port, host: '127.0.0.1', noDelay: true })
    this.socket.on('data', (data) => {
      this.received += data.toString('latin1')
      this.#heard()
    })
    // What a peer's reset says, its close says too.
    this.socket.on('error', () => undefined)
    this.closed = new Promise((resolve) => {
      this.socket.once('close', () => {
        this.#heard()
        resolve()
      })
    })
  }

  /** `text`: a character for each byte. */
  say(text: string | Uint8Array): void {
    this.socket.write(typeof text === 'string' ? Buffer.from(text, 'latin1') : text)
  }

  /** Resolves when so much has come that it fits, or nothing more will. */
  async until(fits: (received: string) => boolean): Promise<string> {
    while (!fits(this.received) && !this.socket.destroyed) {
      await new Promise<void>((resolve) => (this.#heard = resolve))
    }
    return this.received
  }

  [Symbol.dispose](): void {
    this.socket.destroy()
  }
}
