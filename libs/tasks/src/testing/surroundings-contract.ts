import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, it, vi } from 'vitest'
import type { GpuId } from '../ids.ts'
import type { InputFile, WorkerOrder } from '../runner.ts'
import { Secret } from '../secrets.ts'
import type { RunnerStage } from './runner-stage.ts'
import type { ScriptOptions } from './worker-script.ts'

/** A file of these words. */
function fileOf(name: string, words: string): InputFile {
  return {
    ...{ name, mediaType: 'text/plain', bytes: words.length, sha256: '0'.repeat(64) },
    placeAt: (path) => writeFile(path, words, { mode: 0o444 }),
  }
}

/** As a `run` command tells of it. */
function told({ name, mediaType, bytes, sha256 }: InputFile): object {
  return { name, media_type: mediaType, bytes, sha256 }
}

/** What workers find around them: environment, files, stdin. */
export function describeSurroundings(stage: RunnerStage, modelsPath: string): void {
  const { order, start, read, say, files } = stage

  describe('what a worker finds', () => {
    it('is the environment of the protocol', async () => {
      const { placed, found } = await environmentOf({
        input: { prompt: 'hello' },
        gpus: [
          { id: 'GPU-00000000-0000-0000-0000-000000000003' as GpuId, index: 3, simulated: true },
          { id: 'GPU-00000000-0000-0000-0000-000000000005' as GpuId, index: 5, simulated: true },
        ],
      })
      expect(found).toMatchObject({
        MODEL_NAME: 'test-script',
        MODEL_PATH: modelsPath,
        GPU_DEVICE: '3,5',
        TASK_ID: placed.run?.runId,
        TASK_INPUT: '{"prompt":"hello"}',
        PROTOCOL_VERSION: '1',
        PYTHONUNBUFFERED: '1',
      })
    })

    it('is no GPU where it was given none', async () => {
      expect((await environmentOf({})).found).toMatchObject({ GPU_DEVICE: '' })
    })

    it("is the preset's own variables above the service's", async () => {
      const { found } = await environmentOf({
        env: { MODEL_NAME: 'mine', EXTRA: 'a "quoted" $value' },
        modelPath: 'llama/7b',
      })
      expect(found).toMatchObject({
        MODEL_NAME: 'mine',
        EXTRA: 'a "quoted" $value',
        MODEL_PATH: `${modelsPath}/llama/7b`,
      })
    })

    it("is nothing of the service's own environment", async () => {
      vi.stubEnv('DATABASE_URL', 'postgresql://secret')
      vi.stubEnv('CONTRACT_CANARY', 'canary')
      const { found } = await environmentOf({})
      expect(found).not.toHaveProperty('DATABASE_URL')
      expect(found).not.toHaveProperty('CONTRACT_CANARY')
    })

    it('is its input as a file, and a large one there alone', async () => {
      const input = { text: 'ü'.repeat(100_000) }
      const placed = await start('cat "$INPUT_FILE" > "$OUTPUT_DIR/copy"; echo "${TASK_INPUT-absent}"', {
        input,
      })
      const { stdout } = await read(placed.name)
      expect(await jsonIn(placed, 'copy')).toEqual(input)
      expect(stdout.toString()).toBe('absent\n')
    })

    it('is a home and a cache that it can write to, and an output folder that the service reads', async () => {
      const placed = await start(
        'echo 1 > "$HOME/x" && mkdir -p "$XDG_CACHE_HOME/y" && mkdir "$OUTPUT_DIR/z" && echo made > "$OUTPUT_DIR/z/file" && echo ok',
      )
      expect((await read(placed.name)).stdout.toString()).toBe('ok\n')
      expect(await readFile(join(files(placed), 'z/file'), 'utf8')).toBe('made\n')
    })

    it('is its secrets as files that its user alone may read, under SECRETS_DIR and in no variable', async () => {
      const value = Buffer.from('s3cret-value\n\u00fc')
      const secrets = [new Secret('key.pem', value), new Secret('token', Buffer.from('t'))]
      const placed = await start(
        'cd "$SECRETS_DIR" && ls && stat -c %a * && cat key.pem > "$OUTPUT_DIR/copy"; (: > token) 2> /dev/null || echo kept; env | grep -c s3cret',
        { secrets },
      )
      const { stdout } = await read(placed.name)
      expect(stdout.toString()).toMatch(/^key\.pem\ntoken\n400\n400\n(kept\n)?0\n$/)
      expect(await readFile(join(files(placed), 'copy'))).toEqual(value)
    })

    it('is no folder of secrets where it was given none', async () => {
      expect((await environmentOf({})).found).not.toHaveProperty('SECRETS_DIR')
    })

    it('is the files that its task was given, in INPUT_DIR', async () => {
      const files = [fileOf('a clip.wav', 'heard'), fileOf('\u00fc.txt', 'read')]
      const placed = await start(
        'cd "$INPUT_DIR" && printf "%s\\n" * && cat *; cat > "$OUTPUT_DIR/stdin"; printf %s "$TASK_FILES" > "$OUTPUT_DIR/files"',
        { files },
      )
      const { stdout } = await read(placed.name)
      expect(stdout.toString()).toBe('a clip.wav\n\u00fc.txt\nheardread')
      const command = await jsonIn(placed, 'stdin')
      expect(command).toMatchObject({ files: files.map(told) })
      expect(command).toHaveProperty('input_dir')
      expect(await jsonIn(placed, 'files')).toEqual(files.map(told))
    })

    it('is what earlier attempts have left, in PREVIOUS_DIR, beside its own files', async () => {
      const previous = [fileOf('checkpoint.pt', 'half done')]
      const placed = await start(
        'cat "$PREVIOUS_DIR"/* "$INPUT_DIR"/*; (: > "$PREVIOUS_DIR/more") 2> /dev/null; cat > "$OUTPUT_DIR/stdin"; printf %s "$PREVIOUS_FILES" > "$OUTPUT_DIR/previous"',
        { previous, files: [fileOf('checkpoint.pt', ' and its own')] },
      )
      const { stdout } = await read(placed.name)
      expect(stdout.toString()).toBe('half done and its own')
      const command = await jsonIn(placed, 'stdin')
      expect(command).toMatchObject({ previous_files: previous.map(told) })
      expect(command).toHaveProperty('previous_dir')
      expect(await jsonIn(placed, 'previous')).toEqual(previous.map(told))
    })

    it('is what earlier attempts have left where it was given no files', async () => {
      const previous = [fileOf('checkpoint.pt', 'half done')]
      const placed = await start('cat "$PREVIOUS_DIR"/checkpoint.pt; echo "${INPUT_DIR-no files}"', {
        previous,
      })
      expect((await read(placed.name)).stdout.toString()).toBe('half doneno files\n')
    })

    it('is no folder of files where it was given none', async () => {
      const { found } = await environmentOf({})
      expect(found).not.toHaveProperty('PREVIOUS_DIR')
      expect(found).not.toHaveProperty('INPUT_DIR')
      expect(found).not.toHaveProperty('TASK_FILES')
    })

    it('is told to the next runner for as long as the worker is there, so that its output can be read without its secrets', async () => {
      const { name } = await start('true', { secrets: [new Secret('token', Buffer.from('s3cret-value'))] })
      await stage.restart()
      const given = await stage.runner.secrets(name)
      expect(given.map((secret) => [secret.name, Buffer.from(secret.reveal()).toString()])).toEqual([
        ['token', 's3cret-value'],
      ])
      expect(JSON.stringify(given)).not.toContain('s3cret')
      await stage.runner.remove(name)
      expect(await stage.runner.secrets(name)).toEqual([])
      expect(await stage.runner.secrets(order('true').name)).toEqual([])
    })

    it('is the files of its run for as long as these are needed', async () => {
      const placed = await start('echo made > "$OUTPUT_DIR/file"; echo ok')
      await read(placed.name)
      const made = (): Promise<string | null> =>
        readFile(join(files(placed), 'file'), 'utf8').catch(() => null)
      const asked: string[] = []
      await stage.runner.removeRuns(placed.name, (runId) => {
        asked.push(runId)
        return true
      })
      expect(asked).toEqual([placed.run?.runId])
      expect(await made()).toBe('made\n')
      await stage.runner.removeRuns(placed.name, () => false)
      expect(await made()).toBeNull()
      await stage.runner.removeRuns(placed.name, () => false)
      await stage.runner.removeRuns(order('true').name, () => false)
    })

    /** What the worker has written into a file of its output folder. */
    async function jsonIn(placed: WorkerOrder, file: string): Promise<unknown> {
      return JSON.parse(await readFile(join(files(placed), file), 'utf8'))
    }

    async function environmentOf(
      more: Partial<ScriptOptions>,
    ): Promise<{ placed: WorkerOrder; found: Record<string, string> }> {
      const placed = await start('env', more)
      const { stdout } = await read(placed.name)
      const pairs = stdout
        .toString()
        .split('\n')
        .map((line): [string, string] => [
          line.slice(0, line.indexOf('=')),
          line.slice(line.indexOf('=') + 1),
        ])
      return { placed, found: Object.fromEntries(pairs) }
    }
  })

  describe('the stdin of a one-off worker', () => {
    it('is its `run` command, then the end, also for a large input', async () => {
      const input = { text: 'y'.repeat(200_000) }
      const placed = await start('cat; echo over >&2', { input })
      const { stdout, stderr } = await read(placed.name)
      expect(JSON.parse(stdout.toString())).toEqual({
        command: 'run',
        task_id: placed.run?.runId,
        attempt: 1,
        input,
        output_dir: stage.runner.outputFolder(placed.name, placed.run?.runId ?? '').worker,
      })
      expect(stdout.toString().endsWith('}\n')).toBe(true)
      expect(stderr.toString()).toBe('over\n')
    })

    it('need not be read', async () => {
      const { stdout, end } = await say('echo fine', { input: { text: 'y'.repeat(200_000) } })
      expect(stdout.toString()).toBe('fine\n')
      expect(end).toMatchObject({ exitCode: 0 })
    })
  })

  describe('the stdin of a session worker', () => {
    const ECHO =
      'echo up; while IFS= read -r line; do printf "%s\\n" "$line"; case "$line" in *shutdown*) exit 0;; esac; done; echo closed'
    const run = { runId: 'task.1', attempt: 1, input: { prompt: 'ü' }, files: [], previous: [] }

    it('is the commands that are given to it, one per line', async () => {
      const { name } = await start(ECHO, { mode: 'SESSION' })
      const input = await stage.runner.openInput(name)
      await input.run(run)
      await input.cancel('task.1')
      await input.shutdown()
      const { stdout, end } = await read(name)
      const [up, ...commands] = stdout.toString().trimEnd().split('\n')
      expect(up).toBe('up')
      expect(commands.map((line): unknown => JSON.parse(line))).toEqual([
        {
          command: 'run',
          task_id: 'task.1',
          attempt: 1,
          input: { prompt: 'ü' },
          output_dir: stage.runner.outputFolder(name, 'task.1').worker,
        },
        { command: 'cancel', task_id: 'task.1' },
        { command: 'shutdown' },
      ])
      expect(end).toMatchObject({ exitCode: 0 })
      input.detach()
    })

    it('carries a large task', async () => {
      const { name } = await start(ECHO, { mode: 'SESSION' })
      const input = await stage.runner.openInput(name)
      const large = { text: 'z'.repeat(200_000) }
      await input.run({ ...run, input: large })
      await input.shutdown()
      const { stdout } = await read(name)
      expect(JSON.parse(stdout.toString().split('\n')[1] ?? '')).toMatchObject({ input: large })
      input.detach()
    })

    it('gives each run a folder that the service reads', async () => {
      const { name } = await start(
        'IFS= read -r line; dir=${line##*output_dir\\":\\"}; echo made > "${dir%%\\"*}/file"; echo done; sleep 60',
        { mode: 'SESSION' },
      )
      const input = await stage.runner.openInput(name)
      await input.run(run)
      input.detach()
      await read(name, { until: ({ stdout }) => stdout.includes('done') })
      expect(await readFile(join(stage.runner.outputFolder(name, 'task.1').host, 'file'), 'utf8')).toBe(
        'made\n',
      )
    })

    it('names the files of each run, which are there for as long as they are needed', async () => {
      const { name } = await start(
        'while IFS= read -r line; do dir=${line##*input_dir\\":\\"}; dir=${dir%%\\"*}; ls "$dir"; cat "$dir"/*; echo; done; sleep 60',
        { mode: 'SESSION' },
      )
      const input = await stage.runner.openInput(name)
      await input.run({ ...run, files: [fileOf('one.txt', 'first')] })
      await read(name, { until: ({ stdout }) => stdout.includes('first') })
      await input.run({ ...run, runId: 'task.2', files: [fileOf('two.txt', 'second')] })
      const { stdout } = await read(name, { until: ({ stdout }) => stdout.includes('second') })
      expect(stdout.toString()).toMatch(/^one\.txt\nfirst\ntwo\.txt\nsecond\n?$/)
      const asked: string[] = []
      await stage.runner.removeRuns(name, (runId) => {
        asked.push(runId)
        return runId === 'task.2'
      })
      expect(asked.sort()).toEqual(['task.1', 'task.2'])
      await input.run({ ...run, runId: 'task.1' })
      await input.run({ ...run, runId: 'task.2', files: [fileOf('more.txt', 'third')] })
      input.detach()
      const later = await read(name, { until: ({ stdout }) => stdout.includes('thirdsecond') })
      expect(later.stdout.toString()).toMatch(/more\.txt\ntwo\.txt\nthirdsecond/)
    })

    it('names what earlier attempts at each run have left, which goes with the run', async () => {
      const { name } = await start(
        'while IFS= read -r line; do dir=${line##*previous_dir\\":\\"}; dir=${dir%%\\"*}; cat "$dir"/*; echo; done; sleep 60',
        { mode: 'SESSION' },
      )
      const input = await stage.runner.openInput(name)
      await input.run({ ...run, previous: [fileOf('a', 'first')] })
      await read(name, { until: ({ stdout }) => stdout.includes('first') })
      const asked: string[] = []
      await stage.runner.removeRuns(name, (runId) => {
        asked.push(runId)
        return false
      })
      expect(asked).toEqual(['task.1'])
      await input.run({ ...run, previous: [fileOf('b', 'second')] })
      input.detach()
      const { stdout } = await read(name, { until: ({ stdout }) => stdout.includes('second') })
      expect(stdout.toString().trimEnd()).toBe('first\nsecond')
    })

    it('stays open when it is let go of and when the runner ends, and is opened again by the next', async () => {
      const { name } = await start(ECHO, { mode: 'SESSION' })
      const first = await stage.runner.openInput(name)
      await first.cancel('one')
      first.detach()
      const again = await stage.runner.openInput(name)
      await again.cancel('two')
      const before = await read(name, { until: ({ stdout }) => stdout.includes('two') })
      await stage.restart()

      const second = await stage.runner.openInput(name)
      await second.cancel('three')
      await second.shutdown()
      const after = await read(name, { after: before.cursor })
      second.detach()
      expect(before.stdout.toString() + after.stdout.toString()).toBe(
        'up\n{"command":"cancel","task_id":"one"}\n{"command":"cancel","task_id":"two"}\n' +
          '{"command":"cancel","task_id":"three"}\n{"command":"shutdown"}\n',
      )
      expect(after.end).toMatchObject({ exitCode: 0 })
    })

    it('cannot be opened where there is no such worker', async () => {
      await expect(stage.runner.openInput(order('').name)).rejects.toMatchObject({
        name: 'RunnerError',
        code: 'NOT_FOUND',
      })
    })
  })
}
