// npm test: everything that can be checked, from a fresh clone on. The last line of its output is
// `N passed, N failed, N skipped`. Arguments go to Vitest; with any, only tests are run.
import { spawn, spawnSync } from 'node:child_process'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { prepare, ROOT, SetupError } from './setup.mjs'

const BIN = join(ROOT, 'node_modules/.bin')
const STATIC_CHECKS = [
  ['project references are in step', 'nx', 'sync:check'],
  ['types', 'nx', 'run-many', '-t', 'typecheck'],
  ['lint', 'nx', 'run-many', '-t', 'lint'],
  ['formatting', 'prettier', '--check', '.'],
]
const CHILD_ENV = {
  NX_DAEMON: 'false',
  NX_TUI: 'false',
  ...(process.stdout.isTTY ? {} : { NO_COLOR: '1', FORCE_COLOR: '0' }),
}

const interrupt = new AbortController()
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => interrupt.abort(signal))

async function main() {
  const totals = { passed: 0, failed: 0, skipped: 0 }
  try {
    await checkEverything(totals, process.argv.slice(2))
  } catch (error) {
    totals.failed += 1
    console.error(error instanceof SetupError ? error.message : error)
  }
  if (interrupt.signal.aborted) {
    totals.failed += 1
    console.log(`Interrupted by ${interrupt.signal.reason}`)
  }
  process.exitCode = totals.failed > 0 ? 1 : 0
  console.log(`${totals.passed} passed, ${totals.failed} failed, ${totals.skipped} skipped`)
}

async function checkEverything(totals, vitestArgs) {
  await prepare()
  warnOfMissingPython()
  const { tsImport } = await import('tsx/esm/api')
  const testEngine = await tsImport('./test-engine/src/index.ts', import.meta.url)
  // Where an engine is required and there is none, that is one failure, and the other tests still run.
  const isRequired = process.env.REQUIRE_DOCKER === '1'
  delete process.env.REQUIRE_DOCKER
  const engine = await testEngine.openTestEngine()
  try {
    if (isRequired)
      report(totals, 'a Docker engine is there', engine !== null, 'REQUIRE_DOCKER=1, but there is none')
    if (engine !== null)
      console.log(`Docker engine: ${engine.private ? 'started for the tests' : engine.dockerHost}`)
    const isWhole = vitestArgs.length === 0
    // The engine works while the static checks compute. What takes long is made here for a whole run only: two test files must not make it at once.
    const { BUSYBOX_IMAGE, LOADING_WORKER_IMAGE, NODE_IMAGE, SESSION_WORKER_IMAGE } = testEngine
    const images = makeImages(engine, [
      ...[BUSYBOX_IMAGE, LOADING_WORKER_IMAGE, SESSION_WORKER_IMAGE, NODE_IMAGE],
      ...(isWhole ? [testEngine.LLAMA_WORKER_IMAGE, testEngine.TEXT_TRAINER_IMAGE] : []),
    ])
    if (isWhole) {
      for (const [name, program, ...args] of STATIC_CHECKS) await staticCheck(totals, name, program, args)
    }
    const imageProblem = await images
    if (imageProblem !== null) report(totals, 'the tests have their images', false, imageProblem)
    await runVitest(totals, vitestArgs)
    if (engine !== null && !interrupt.signal.aborted) await checkLeaks(totals, engine)
  } finally {
    await engine?.[Symbol.asyncDispose]()
  }
}

/** What is wrong; `null` where all images are there. Never rejects. */
async function makeImages(engine, images) {
  try {
    for (const image of images) await engine?.ensureImage(image)
    return null
  } catch (error) {
    return error.stderr || error.message
  }
}

function warnOfMissingPython() {
  if (spawnSync('python3', ['--version']).error === undefined) return
  console.error(
    '\n!!! python3 is missing: the tests that run Python workers as processes are SKIPPED. Debian and Ubuntu: sudo apt-get install python3\n',
  )
}

async function staticCheck(totals, name, program, args) {
  if (interrupt.signal.aborted) return
  const started = performance.now()
  const { exitCode, output } = await run(program, args, { quiet: true })
  const seconds = ((performance.now() - started) / 1000).toFixed(1)
  report(totals, `${name} (${seconds} s)`, exitCode === 0, output)
}

function report(totals, name, ok, details) {
  totals[ok ? 'passed' : 'failed'] += 1
  console.log(`${ok ? '✓' : '✗'} ${name}`)
  if (!ok) console.log(details)
}

async function runVitest(totals, args) {
  if (interrupt.signal.aborted) return
  const folder = await mkdtemp(join(tmpdir(), 'gpu-service-test-'))
  try {
    const json = join(folder, 'results.json')
    const { exitCode } = await run(
      'vitest',
      ['run', '--reporter=default', '--reporter=json', `--outputFile.json=${json}`, ...args],
      { quiet: false },
    )
    const results = await readFile(json, 'utf8').then(JSON.parse, () => null)
    const counts = countTests(results?.testResults ?? [])
    for (const key of Object.keys(counts)) totals[key] += counts[key]
    // An error outside of any test, a leak at the end, or no result at all.
    if (exitCode !== 0 && counts.failed === 0) totals.failed += 1
  } finally {
    await rm(folder, { recursive: true })
  }
}

function countTests(files) {
  const counts = { passed: 0, failed: 0, skipped: 0 }
  for (const file of files) {
    for (const { status } of file.assertionResults) {
      counts[status === 'passed' || status === 'failed' ? status : 'skipped'] += 1
    }
    // A file that could not be loaded has no tests to fail.
    if (file.status === 'failed' && !file.assertionResults.some(({ status }) => status === 'failed'))
      counts.failed += 1
  }
  return counts
}

async function checkLeaks(totals, engine) {
  const leaks = await engine.leaks()
  // What came to an engine that others use may be theirs; in CI there are no others.
  if (engine.private || process.env.CI || leaks.length === 0) {
    report(totals, 'nothing is left on the engine', leaks.length === 0, leaks.join('\n'))
  } else {
    console.log(`New on the engine since the tests began, theirs or someone else's:\n${leaks.join('\n')}`)
  }
}

/** Runs one of the installed programs to its end; an interrupt ends it. */
async function run(program, args, { quiet }) {
  const child = spawn(join(BIN, program), args, {
    cwd: ROOT,
    env: { ...process.env, ...CHILD_ENV },
    stdio: ['ignore', quiet ? 'pipe' : 'inherit', quiet ? 'pipe' : 'inherit'],
  })
  const stop = () => child.kill('SIGTERM')
  interrupt.signal.addEventListener('abort', stop)
  let output = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream?.setEncoding('utf8').on('data', (text) => {
      output += text
    })
  }
  const exitCode = await new Promise((resolve, reject) => {
    child.on('error', reject)
    child.on('close', resolve)
  })
  interrupt.signal.removeEventListener('abort', stop)
  return { exitCode, output }
}

await main()
