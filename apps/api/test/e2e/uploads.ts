import { createHash } from 'node:crypto'
import type { TestService } from './service.ts'

/** A file that the service has taken. */
export interface SeenUpload {
  readonly id: string
  readonly name: string
  readonly mediaType: string
  readonly bytes: number
  readonly sha256: string
  readonly expiresAt: string
}

/** What `fetch` sends. */
export type Body = NonNullable<RequestInit['body']>

/** What it answers to a file. */
export interface UploadAnswer {
  readonly status: number
  readonly upload: SeenUpload
  /** Of a refusal. */
  readonly code: string
  readonly message: string
}

export interface SendOptions {
  readonly name?: string
  readonly type?: string
  readonly key?: string
  readonly headers?: Readonly<Record<string, string>>
}

/** Sends a file, whatever comes of it. */
export async function send(
  service: Pick<TestService, 'url'>,
  body: Body,
  { name = 'file.bin', type = 'application/octet-stream', key, headers = {} }: SendOptions = {},
): Promise<UploadAnswer> {
  const url = new URL(`/uploads?name=${encodeURIComponent(name)}`, service.url)
  const init: RequestInit & { readonly duplex: 'half' } = {
    method: 'POST',
    headers: {
      'content-type': type,
      ...(key !== undefined && { authorization: `Bearer ${key}` }),
      ...headers,
    },
    body,
    duplex: 'half',
  }
  const response = await fetch(url, init)
  const answer = (await response.json()) as SeenUpload & {
    readonly errors?: readonly { readonly message: string; readonly extensions: { readonly code: string } }[]
  }
  const [error] = answer.errors ?? []
  return {
    status: response.status,
    upload: answer,
    code: error?.extensions.code ?? '',
    message: error?.message ?? '',
  }
}

/** Sends a file that is taken. */
export async function upload(
  service: Pick<TestService, 'url'>,
  body: Body,
  options: SendOptions = {},
): Promise<SeenUpload> {
  const answer = await send(service, body, options)
  if (answer.status !== 201) throw new Error(`${answer.status} ${answer.code}: ${answer.message}`)
  return answer.upload
}

export const sha256 = (content: string | Uint8Array): string =>
  createHash('sha256').update(content).digest('hex')

/** In JSON, what the files of the folder are: their hashes and names, one `text_delta` each. */
const HASHES = (dir: string, more = ''): string =>
  `for f in "${dir}"/*; do s=$(sha256sum "$f"); echo "{\\"event\\":\\"text_delta\\",\\"delta\\":\\"\${s%% *} \${f##*/};\\"${more}}"; done`

/** The shell of a one-off worker that tells the hashes of its files. */
export const HASHING = HASHES('$INPUT_DIR')

/** The shell of a session worker that does so for each of its tasks, and then says whether it can change one. */
export const HASHING_SESSION = `echo '{"event":"worker","status":"ready"}'
  while read -r line; do case "$line" in
    *'"command":"run"'*)
      id=\${line#*\\"task_id\\":\\"}; id=\${id%%\\"*}
      case "$line" in *'"input_dir"'*) dir=\${line##*\\"input_dir\\":\\"}; dir=\${dir%%\\"*};; *) dir=/nowhere;; esac
      ${HASHES('$dir', ',\\"task_id\\":\\"$id\\"')}
      echo "{\\"event\\":\\"finish\\",\\"status\\":\\"completed\\",\\"task_id\\":\\"$id\\"}";;
    *'"command":"shutdown"'*) exit 0;;
  esac; done`
