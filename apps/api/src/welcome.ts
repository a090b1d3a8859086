import type { RunningService } from './start.ts'

/** What a person sees once the service answers: what it runs with, its address, and what to try first. */
export function welcome({
  url,
  facts,
  firstKey,
  presetIssues,
}: Pick<RunningService, 'url' | 'facts' | 'firstKey' | 'presetIssues'>): string {
  const width = Math.max(...facts.map(([label]) => label.length))
  const issues = presetIssues.map(
    ({ file, line, column, message }) => `  ${file}:${line}:${column}: ${message}`,
  )
  const mutation =
    'mutation { submitTask(input: {presetId: "test-loading/inference"}) { ... on SubmitTaskSuccess { task { id } } ... on Problem { message } } }'
  return [
    '',
    'GPU Service',
    ...facts.map(([label, text]) => `  ${label.padEnd(width)}  ${text}`),
    ...(issues.length === 0
      ? []
      : ['', 'The presets file has problems; its presets are not in force:', ...issues]),
    ...(firstKey === null
      ? []
      : [
          '',
          'The first API key, of the role admin. It is shown this once and kept nowhere:',
          `  ${firstKey}`,
        ]),
    '',
    `Ready: ${url}`,
    '',
    'Submit a task:',
    `  curl -s ${url} -H 'content-type: application/json' -d '${JSON.stringify({ query: mutation })}'`,
    'Follow it (put its id in place of TASK):',
    `  curl -sN ${url}/stream -H 'content-type: application/json' -H 'accept: text/event-stream' -d '${JSON.stringify({ query: SUBSCRIPTION })}'`,
    'The same over a WebSocket (protocol graphql-transport-ws) at the same address, or in a GraphQL client:',
    `  ${mutation}`,
    `  ${SUBSCRIPTION}`,
    '',
    '',
  ].join('\n')
}

const SUBSCRIPTION =
  'subscription { taskEvents(taskId: "TASK") { events { __typename seq ... on TaskStatusEvent { taskStatus } ... on WorkerEvent { status message } ... on TextDeltaEvent { delta } ... on TextEvent { content } } } }'
