import type { TaskEventBody } from './event.ts'

/**
 * What is kept of a task's contents (its input, its output, its files, and what was said of them) once it has ended: all; a SHA-256 of each; or
 * nothing but that it was there.
 */
export const PRIVACY_CLASSES = ['full', 'hashed', 'ephemeral'] as const
export type PrivacyClass = (typeof PRIVACY_CLASSES)[number]

/** What stands for contents that are not there any more: `sha256:` and lower-case hex; `null`: there were none. */
export interface ContentHashes {
  /** Of the input as canonical JSON (RFC 8785). */
  readonly input: string
  /** Of the output's text in UTF-8. */
  readonly text: string | null
  /** Of the result as canonical JSON. */
  readonly result: string | null
}

/** In the place of a message that may quote contents. */
export const SCRUBBED_TEXT = '[removed: the privacy class of the task]'

/** The event without contents: its kind, its numbers and its codes are left, and with `hashed` the hashes of its files. */
export function scrubbedBody(body: TaskEventBody, privacy: Exclude<PrivacyClass, 'full'>): TaskEventBody {
  switch (body.type) {
    case 'status':
      return { ...body, reason: null }
    case 'worker':
    case 'progress':
      return { ...body, message: null }
    case 'text_delta':
      return { ...body, delta: '' }
    case 'text':
      return { ...body, content: '' }
    case 'finish':
      return { ...body, error: body.error && { code: body.error.code, message: SCRUBBED_TEXT } }
    case 'result':
      return { ...body, value: null }
    case 'artifact': {
      const { sha256, ...artifact } = body.artifact
      const hash = privacy === 'hashed' ? sha256 : ''
      return { ...body, artifact: { ...artifact, name: '', sha256: hash } }
    }
    case 'log':
      return { ...body, line: '' }
    case 'custom':
      return { ...body, name: '', payload: {} }
    case 'fault':
      return { ...body, line: '', detail: '' }
    case 'gap':
    case 'usage':
    case 'connection':
      return body
  }
}
