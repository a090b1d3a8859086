import { once } from 'node:events'
import WebSocket from 'ws'
import type { Said } from './operations.ts'

/** What became of an operation: the codes of its errors, and whether there is data beside them. */
export interface Verdict {
  readonly codes: readonly string[]
  readonly hasData: boolean
}

/** An answer as it came. */
export interface Heard extends Verdict {
  readonly text: string
  readonly status: number
}

interface Result {
  readonly data?: unknown
  readonly errors?: readonly { readonly extensions?: { readonly code?: string } }[]
}

/** Says the same thing over HTTP, as an event stream, and over one WebSocket after the other. */
export class ThreePaths implements AsyncDisposable {
  readonly #url: string
  readonly #headers: Readonly<Record<string, string>>
  #socket: Promise<WebSocket> | null = null
  #nextId = 1

  constructor(url: string, key: string | null = null) {
    this.#url = url
    this.#headers = key === null ? {} : { authorization: `Bearer ${key}` }
  }

  async overHttp(said: Said): Promise<Heard> {
    const response = await this.#post(this.#url, said, 'application/json')
    const text = await response.text()
    return { ...verdictOf(JSON.parse(text) as Result), text, status: response.status }
  }

  /** Of a subscription its first event. */
  async overStream(said: Said): Promise<Heard> {
    const response = await this.#post(`${this.#url}/stream`, said, 'text/event-stream')
    const { status, body } = response
    if (status !== 200 || body === null) {
      const text = await response.text()
      return { ...verdictOf(JSON.parse(text) as Result), text, status }
    }
    let text = ''
    for await (const chunk of body.pipeThrough(new TextDecoderStream())) {
      text += chunk
      const event = /^event: next\ndata: ([^\n]*)\n\n/m.exec(text)
      // Leaving the loop hangs up.
      if (event !== null) return { ...verdictOf(JSON.parse(event[1] ?? '') as Result), text, status }
    }
    return { codes: [], hasData: false, text, status }
  }

  /** The same. A socket that is closed on it is told by its code, as `closed 4400`. */
  async overSocket(said: Said): Promise<Heard> {
    const socket = await (this.#socket ??= this.#open())
    const id = String(this.#nextId++)
    return new Promise((resolve) => {
      const done = (verdict: Verdict, text: string, status: number): void => {
        socket.off('message', hear).off('close', leave)
        resolve({ ...verdict, text, status })
      }
      const hear = (data: Buffer): void => {
        const text = data.toString()
        const message = JSON.parse(text) as {
          readonly id?: string
          readonly type: string
          readonly payload: unknown
        }
        if (message.id !== id) return
        if (message.type === 'next') {
          socket.send(JSON.stringify({ id, type: 'complete' }))
          done(verdictOf(message.payload as Result), text, 200)
        }
        if (message.type === 'error')
          done(verdictOf({ errors: message.payload as Result['errors'] & object }), text, 400)
        if (message.type === 'complete') done({ codes: [], hasData: false }, text, 200)
      }
      const leave = (code: number, reason: Buffer): void => {
        this.#socket = null
        done({ codes: [`closed ${code}`], hasData: false }, reason.toString(), code)
      }
      socket.on('message', hear).once('close', leave)
      socket.send(JSON.stringify({ id, type: 'subscribe', payload: said }))
    })
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const socket = await this.#socket
    if (socket === null) return
    socket.close()
    await once(socket, 'close')
  }

  #post(url: string, said: Said, accept: string): Promise<Response> {
    const headers = { ...this.#headers, 'content-type': 'application/json', accept }
    return fetch(url, { method: 'POST', headers, body: JSON.stringify(said) })
  }

  async #open(): Promise<WebSocket> {
    const socket = new WebSocket(this.#url.replace('http:', 'ws:'), ['graphql-transport-ws'], {
      headers: this.#headers,
    })
    await once(socket, 'open')
    socket.send('{"type":"connection_init"}')
    await once(socket, 'message')
    return socket
  }
}

function verdictOf({ data, errors }: Result): Verdict {
  const codes = (errors ?? []).map(({ extensions }) => String(extensions?.code))
  return { codes: [...new Set(codes)].sort(), hasData: data != null }
}
