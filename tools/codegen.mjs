#!/usr/bin/env node
// Writes the types of the API's resolvers from its schema, and the client's operations from their texts and that schema. Does nothing
// where they are newer than what they are made from; `--force` writes them anyway.
import { mkdir, readdir, readFile, rename, stat, writeFile } from 'node:fs/promises'
import { dirname, join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))
const schemaFile = join(root, 'apps/api/src/graphql/schema.graphql')
const resolversFile = join(root, 'apps/api/src/graphql/generated/resolvers.ts')
const operationsFolder = join(root, 'libs/client/src/operations')
const operationsFile = join(root, 'libs/client/src/generated/operations.ts')

/** A type of the schema and the domain's type that its resolvers are given. */
const MAPPERS = {
  Service: '../context.ts#ServiceInfo as ServiceModel',
  Task: '@gpu-service/tasks#Task as TaskModel',
  TaskAttempt: '@gpu-service/tasks#TaskAttempt as TaskAttemptModel',
  FailureEvidence: '@gpu-service/tasks#FailureEvidence as FailureEvidenceModel',
  StartEstimate: '@gpu-service/tasks#StartEstimate as StartEstimateModel',
  Worker: '@gpu-service/tasks#LiveWorker as WorkerModel',
  Gpu: '@gpu-service/tasks#LiveGpu as GpuModel',
  GpuProcess: '@gpu-service/tasks#GpuProcess as GpuProcessModel',
  Preset: '@gpu-service/tasks#Preset as PresetModel',
  AuditEntry: '@gpu-service/tasks#AuditEntry as AuditEntryModel',
  AuditVerification: '@gpu-service/tasks#AuditVerification as AuditVerificationModel',
  Artifact: '@gpu-service/tasks#Artifact as ArtifactModel',
  ApiKey: '@gpu-service/tasks#ApiKey as ApiKeyModel',
  Viewer: '@gpu-service/tasks#Principal as PrincipalModel',
  TaskConnection: 'TaskConnectionModel',
  TaskEventBatch: 'EventBatchModel',
  TaskStatusEvent: "EventModel<'status'>",
  ConnectionEvent: "EventModel<'connection'>",
  WorkerEvent: "EventModel<'worker'>",
  TextDeltaEvent: "EventModel<'text_delta'>",
  TextEvent: "EventModel<'text'>",
  FinishEvent: "EventModel<'finish'>",
  ProgressEvent: "EventModel<'progress'>",
  ResultEvent: "EventModel<'result'>",
  ArtifactEvent: "EventModel<'artifact'>",
  UsageEvent: "EventModel<'usage'>",
  LogEvent: "EventModel<'log'>",
  CustomEvent: "EventModel<'custom'>",
  ProtocolFaultEvent: "EventModel<'fault'>",
  GapEvent: "EventModel<'gap'>",
}

/** Enums whose values the domain calls otherwise. */
const ENUMS = Object.fromEntries(
  ['FailureCause', 'FailureClass', 'GpuShare', 'Privacy', 'Role', 'SessionIsolation', 'DryRunAction'].map(
    (name) => [name, `../enums.ts#${name}`],
  ),
)

const PRELUDE = {
  prepend: [
    '/* eslint-disable */',
    '// Written by tools/codegen.mjs from schema.graphql.',
    "import type { TaskEvent as TaskEventModel, TaskEventBody, TaskFilter as TaskFilterModel } from '@gpu-service/tasks'",
  ],
  content: `
export type EventModel<T extends TaskEventBody['type']> = TaskEventModel & {
  readonly body: Extract<TaskEventBody, { readonly type: T }>
}
/** A page that still knows what it was asked for, so that its total is counted only where it is wanted. */
export type TaskConnectionModel = {
  readonly edges: readonly { readonly cursor: string; readonly node: TaskModel }[]
  readonly pageInfo: PageInfo
  readonly filter: TaskFilterModel
}
export type EventBatchModel = { readonly events: readonly TaskEventModel[]; readonly lastSeq: number }
`,
}

const operationFiles = (await readdir(operationsFolder))
  .filter((name) => name.endsWith('.graphql'))
  .sort()
  .map((name) => join(operationsFolder, name))

await write(resolversFile, [schemaFile], async () => generateResolvers(await readFile(schemaFile, 'utf8')))
// The folder, too: it is newer than a file that was taken away.
await write(operationsFile, [schemaFile, operationsFolder, ...operationFiles], generateOperations)

/** Writes a file with what `generate` gives, where it is older than one of its sources. */
async function write(file, sources, generate) {
  const newest = Math.max(...(await Promise.all([...sources, fileURLToPath(import.meta.url)].map(writtenAt))))
  if (!process.argv.includes('--force') && (await writtenAt(file)) > newest) return
  await mkdir(dirname(file), { recursive: true })
  // Renamed into place, so that nobody reads half a file.
  const draft = `${file}.${process.pid}`
  await writeFile(draft, await generate())
  await rename(draft, file)
  console.log(`Wrote ${relative(root, file)}`)
}

/** In milliseconds since 1970; 0 for a file that is not there. */
async function writtenAt(file) {
  return (await stat(file).catch(() => null))?.mtimeMs ?? 0
}

async function generateResolvers(sdl) {
  // Loaded only when needed: they take most of the time.
  const [{ codegen }, typescript, resolvers, { parse }] = await Promise.all([
    import('@graphql-codegen/core'),
    import('@graphql-codegen/typescript'),
    import('@graphql-codegen/typescript-resolvers'),
    import('graphql'),
  ])
  const types = await codegen({
    schema: parse(sdl),
    documents: [],
    filename: resolversFile,
    pluginMap: { prelude: { plugin: () => PRELUDE }, typescript, resolvers },
    plugins: [{ prelude: {} }, { typescript: {} }, { resolvers: {} }],
    config: {
      strictScalars: true,
      scalars: {
        // The domain's time: milliseconds since 1970.
        DateTime: 'number',
        JSON: '@gpu-service/event-parser#JsonValue',
        BigInt: { input: 'bigint', output: 'number | bigint' },
        ID: { input: 'string', output: 'string' },
      },
      enumsAsTypes: true,
      enumValues: ENUMS,
      useTypeImports: true,
      immutableTypes: true,
      inputMaybeValue: 'T | null | undefined',
      avoidOptionals: { field: true, object: true, inputValue: false, defaultValue: true },
      contextType: '../context.ts#Context',
      // A member of a union says which one it is, so that the compiler checks what a mutation gives.
      resolversNonOptionalTypename: { unionMember: true },
      mappers: MAPPERS,
    },
  })
  // The generator does not know verbatimModuleSyntax.
  return types.replace(/^export (?=\{ \w+ \};$)/gm, 'export type ')
}

async function generateOperations() {
  const [{ codegen }, typescript, typescriptOperations, { Kind, parse, print, stripIgnoredCharacters }] =
    await Promise.all([
      import('@graphql-codegen/core'),
      import('@graphql-codegen/typescript'),
      import('@graphql-codegen/typescript-operations'),
      import('graphql'),
    ])
  const documents = await Promise.all(
    operationFiles.map(async (location) => ({ location, document: parse(await readFile(location, 'utf8')) })),
  )
  const definitions = documents.flatMap(({ document }) => document.definitions)
  const fragments = new Map(
    definitions
      .filter(({ kind }) => kind === Kind.FRAGMENT_DEFINITION)
      .map((fragment) => [fragment.name.value, print(fragment)]),
  )

  /** The text with all fragments that it spreads, directly or through others. */
  function complete(text) {
    const needed = new Set()
    const spread = (source) => {
      for (const [, name] of source.matchAll(/\.\.\.(?!on\b)(\w+)/g)) {
        if (needed.has(name)) continue
        needed.add(name)
        spread(fragments.get(name))
      }
    }
    spread(text)
    return stripIgnoredCharacters([text, ...[...needed].map((name) => fragments.get(name))].join('\n'))
  }

  const constants = definitions
    .filter(({ kind }) => kind === Kind.OPERATION_DEFINITION)
    .map((definition) => {
      const name = definition.name.value
      const kind = definition.operation
      const type = `${name}${kind[0].toUpperCase()}${kind.slice(1)}`
      return [
        `export const ${name}Document: Operation<'${kind}', ${type}, ${type}Variables> = {`,
        `  kind: '${kind}',`,
        `  name: '${name}',`,
        `  text: ${JSON.stringify(complete(print(definition)))},`,
        '}',
      ].join('\n')
    })
  return codegen({
    schema: parse(await readFile(schemaFile, 'utf8')),
    documents,
    filename: operationsFile,
    pluginMap: {
      prelude: {
        plugin: () => ({
          prepend: [
            '/* eslint-disable */',
            '// Written by tools/codegen.mjs from schema.graphql and the operations of the client.',
            "import type { JsonValue, Operation } from '../operation.ts'",
          ],
          content: '',
        }),
      },
      typescript,
      typescriptOperations,
      constants: { plugin: () => constants.join('\n\n') },
    },
    plugins: [
      { prelude: {} },
      // The inputs and enums that the operations use.
      { typescript: { onlyOperationTypes: true } },
      { typescriptOperations: {} },
      { constants: {} },
    ],
    config: {
      strictScalars: true,
      scalars: {
        // RFC 3339, in UTC.
        DateTime: 'string',
        JSON: 'JsonValue',
        BigInt: { input: 'string | number', output: 'string' },
        ID: 'string',
      },
      enumsAsTypes: true,
      immutableTypes: true,
      skipTypename: true,
      avoidOptionals: { field: true, object: true, inputValue: false, defaultValue: false },
      arrayInputCoercion: false,
      inputMaybeValue: 'T | null | undefined',
    },
  })
}
