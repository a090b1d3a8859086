import { existsSync } from 'node:fs'
import { mkdir, readdir, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { inspect } from 'node:util'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { Secret, type WorkerOrder } from '@gpu-service/tasks'
import { readOutput } from '@gpu-service/tasks/testing'
import { type DockerRig, IMAGE, openRig } from './rig.ts'

const SECRETS = [new Secret('token', Buffer.from('a value\n'))]
const never = new AbortController().signal

/** What a worker finds when it looks around, one fact a line. */
const LOOK_AROUND = `
  echo "user $(id -u):$(id -g), groups $(id -G)"
  grep -E '^(CapInh|CapPrm|CapEff|CapBnd|CapAmb|NoNewPrivs|Seccomp):' /proc/self/status | tr '\\t' ' '
  echo "first process $(tr '\\0' ' ' < /proc/1/cmdline | cut -d ' ' -f 1)"
  echo "processes $(ls /proc | grep -c '^[0-9]*$' | awk '{ print ($1 < 10) ? "few" : $1 }')"
  echo "network $(ls /sys/class/net)"
  echo "limits: files $(ulimit -n), core $(ulimit -c)"
  echo "oom_score_adj $(cat /proc/self/oom_score_adj)"
  for folder in /tmp "$HOME" /dev/shm; do
    echo "$folder $(df -m "$folder" | awk 'NR == 2 { print $2 }') MB"
  done
  echo "devices $(ls /dev | grep -vE '^(core|fd|full|mqueue|null|ptmx|pts|random|shm|stderr|stdin|stdout|tty|urandom|zero)$' | tr '\\n' ' ')"
`

/** Each mount but those that the engine makes of the kernel itself, with how it is mounted. */
const LIST_MOUNTS = `
  awk '$5 !~ "^/(proc|sys)(/|$)" {
    split($6, options, ","); flags = options[1]
    for (i in options) if (options[i] == "noexec") flags = flags " noexec"
    if ($6 !~ "nosuid") flags = flags " suid"
    print $5, flags
  }' /proc/self/mountinfo | sort
`

/** Every folder in which a file can be made; what the kernel shows of itself is asked for what does harm. */
const LIST_WRITABLE = `
  find / -type d ! -path '/proc/*' ! -path '/sys/*' 2>/dev/null | while read -r folder; do
    (: > "$folder/.probe") 2>/dev/null && echo "$folder" && rm "$folder/.probe"
  done
  for file in /proc/sys/kernel/core_pattern /proc/sysrq-trigger /proc/sys/vm/drop_caches /sys/kernel/uevent_helper /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/cgroup.procs "$INPUT_FILE" "$SECRETS_DIR/token" /etc/passwd /etc/resolv.conf; do
    [ -w "$file" ] && (: >> "$file") 2>/dev/null && echo "$file"
  done
`

/** What a worker may try to get out; each line is one attempt that went well. */
const BREAK_OUT = `
  mkdir -p /tmp/m && mount -t tmpfs none /tmp/m 2>/dev/null && echo "mounts"
  mount -o remount,rw / 2>/dev/null && echo "remounts its root"
  unshare -U true 2>/dev/null && echo "makes a user namespace"
  chroot / true 2>/dev/null && echo "changes its root"
  mknod /tmp/disk b 8 0 2>/dev/null && echo "makes a device"
  ping -c 1 -W 1 127.0.0.1 > /dev/null 2>&1 && echo "sends raw packets"
  for address in 169.254.169.254:80 172.17.0.1:22; do
    nc -w 1 "\${address%:*}" "\${address#*:}" < /dev/null > /dev/null 2>&1 && echo "reaches $address"
  done
  find / -name docker.sock 2>/dev/null | grep .
  printf '#!/bin/sh\\ntrue\\n' > /tmp/program && chmod +x /tmp/program && /tmp/program 2>/dev/null && echo "executes from /tmp"
  kill -0 1 2>/dev/null && [ "$(tr '\\0' ' ' < /proc/1/cmdline | cut -d ' ' -f 1)" != /sbin/docker-init ] && echo "sees the host's processes"
  for file in "$INPUT_FILE" "$SECRETS_DIR/token" /models/weights; do
    ln "$file" "$OUTPUT_DIR/link" 2>/dev/null && echo "links $file into its output"
  done
  nice -n -5 true 2>/dev/null && echo "raises its priority"
  echo -900 2>/dev/null > /proc/self/oom_score_adj && echo "is spared by the kernel"
  echo over
`

describe('a worker on Docker', { timeout: 60_000 }, () => {
  let rig: DockerRig

  beforeEach(async () => {
    rig = await openRig()
  })
  afterEach(() => rig[Symbol.asyncDispose]())

  async function say(script: string, more: Partial<WorkerOrder> = {}): Promise<string[]> {
    const order = { ...rig.order(script), secrets: SECRETS, ...more }
    expect(await rig.runner.start(order)).toMatchObject({ status: 'started' })
    const { stdout, stderr } = await readOutput(rig.runner, order.name, { signal: never })
    expect(stderr.toString()).toBe('')
    return stdout.toString().trimEnd().split('\n')
  }

  it('is made with the whole of the confinement, whatever the engine would fill in', async () => {
    const order = { ...rig.order('sleep 60'), secrets: SECRETS }
    const { limits } = order.spec
    await rig.runner.start({
      ...order,
      spec: { ...order.spec, limits: { ...limits, memoryMb: 64, cpus: 1.5 } },
    })
    const { Config, HostConfig, Mounts, NetworkSettings } = await rig.docker
      .getContainer(order.name)
      .inspect()
    const folder = join(rig.dataDir, 'workers', order.name)
    const bound = (source: string, target: string, isWritable: boolean) => ({
      Type: 'bind',
      Source: source,
      Destination: target,
      Mode: '',
      RW: isWritable,
      Propagation: 'rprivate',
    })
    expect(Config).toMatchObject({
      User: '65534:65534',
      Tty: false,
      OpenStdin: true,
      StdinOnce: true,
      StopSignal: 'SIGTERM',
      StopTimeout: 10,
      Healthcheck: { Test: ['NONE'] },
      Image: IMAGE,
      Cmd: order.spec.command,
      Volumes: null,
      Labels: {
        'gpu-service.installation': rig.installation,
        'gpu-service.worker': order.workerId,
        'gpu-service.preset': 'test-script/inference',
      },
    })
    expect(HostConfig).toMatchObject({
      Init: true,
      AutoRemove: false,
      RestartPolicy: { Name: 'no' },
      Privileged: false,
      PublishAllPorts: false,
      CapAdd: [],
      CapDrop: ['ALL'],
      SecurityOpt: ['no-new-privileges:true'],
      ReadonlyRootfs: true,
      NetworkMode: 'none',
      PortBindings: null,
      Links: null,
      Dns: null,
      ExtraHosts: null,
      IpcMode: 'private',
      PidMode: '',
      UTSMode: '',
      UsernsMode: '',
      CgroupnsMode: 'private',
      CgroupParent: '',
      PidsLimit: limits.processes,
      Memory: 64 * 1024 ** 2,
      MemorySwap: 64 * 1024 ** 2,
      OomKillDisable: false,
      OomScoreAdj: 500,
      NanoCpus: 1_500_000_000,
      ShmSize: limits.sharedMemoryMb * 1024 ** 2,
      Ulimits: [
        { Name: 'nofile', Soft: 16_384, Hard: 16_384 },
        { Name: 'core', Soft: 0, Hard: 0 },
      ],
      LogConfig: {
        Type: 'json-file',
        Config: { 'max-size': '1024g', 'max-file': '1', compress: 'false', mode: 'blocking' },
      },
      Binds: null,
      VolumesFrom: null,
      Devices: null,
      DeviceRequests: null,
      DeviceCgroupRules: null,
      GroupAdd: null,
      Tmpfs: {
        '/tmp': `rw,noexec,nosuid,nodev,size=${limits.tmpMb}m,mode=1777`,
        '/home/worker': `rw,exec,nosuid,nodev,size=${limits.tmpMb}m,mode=1777`,
      },
    })
    expect(HostConfig).not.toHaveProperty('Sysctls')
    // The engine's own lists of what is hidden of the kernel.
    expect(HostConfig).toMatchObject({
      MaskedPaths: expect.arrayContaining(['/proc/kcore', '/proc/keys', '/sys/firmware']) as string[],
      ReadonlyPaths: expect.arrayContaining(['/proc/sys', '/proc/sysrq-trigger']) as string[],
    })
    expect(Mounts.sort((a, b) => (a.Destination < b.Destination ? -1 : 1))).toEqual([
      bound(join(rig.dataDir, 'cache', (await readdir(join(rig.dataDir, 'cache')))[0] ?? ''), '/cache', true),
      bound(join(rig.dataDir, '..', 'models'), '/models', false),
      bound(join(folder, 'secrets'), '/run/secrets', false),
      bound(join(folder, 'input.json'), '/task/input.json', false),
      bound(join(folder, 'runs'), '/task/runs', true),
    ])
    expect(Object.keys(NetworkSettings.Networks)).toEqual(['none'])
    expect(rig.warnings).toEqual([])
    await rig.runner.stop(order.name, { graceMs: 5_000 })
  })

  it('has no limit of memory and processors where the preset sets none', async () => {
    const { name } = await rig.start('true')
    const { HostConfig } = await rig.docker.getContainer(name).inspect()
    expect(HostConfig).toMatchObject({ Memory: 0, MemorySwap: 0, NanoCpus: 0 })
  })

  it('finds itself without rights, devices, network and neighbours', async () => {
    const order = rig.order('')
    const { limits } = order.spec
    expect(await say(LOOK_AROUND)).toEqual(
      [
        'user 65534:65534, groups 65534',
        ...['CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb'].map((set) => `${set}: 0000000000000000`),
        'NoNewPrivs: 1',
        'Seccomp: 2',
        'first process /sbin/docker-init',
        'processes few',
        'network lo',
        'limits: files 16384, core 0',
        'oom_score_adj 500',
        `/tmp ${limits.tmpMb} MB`,
        `/home/worker ${limits.tmpMb} MB`,
        `/dev/shm ${limits.sharedMemoryMb} MB`,
        'devices ',
      ].map((line) => line.trimEnd()),
    )
  })

  it('has these mounts and no others', async () => {
    expect(await say(LIST_MOUNTS)).toEqual([
      '/ ro suid',
      '/cache rw suid',
      '/dev rw',
      '/dev/mqueue rw noexec',
      '/dev/pts rw noexec',
      '/dev/shm rw noexec',
      '/etc/hostname ro suid',
      '/etc/hosts ro suid',
      '/etc/resolv.conf ro suid',
      '/home/worker rw',
      '/models ro suid',
      '/run/secrets ro suid',
      '/sbin/docker-init ro suid',
      '/task/input.json ro suid',
      '/task/runs rw suid',
      '/tmp rw noexec',
    ])
  })

  it('can write to these folders and to no others', async () => {
    const { run } = rig.order('')
    const found = await say(LIST_WRITABLE, { run })
    expect(found.sort()).toEqual([
      '/cache',
      '/dev/mqueue',
      '/dev/shm',
      '/home/worker',
      `/task/runs/${run?.runId ?? ''}`,
      '/tmp',
    ])
  })

  it('gets nowhere when it tries', async () => {
    expect(await say(BREAK_OUT)).toEqual(['over'])
  })

  it('has its secrets nowhere in what the engine tells of it', async () => {
    const value = 'canary-3f1c'
    const order = {
      ...rig.order('stat -c "%n %a %u" "$SECRETS_DIR"/*; echo up; sleep 60'),
      secrets: [new Secret('token', Buffer.from(value))],
    }
    const started = await rig.runner.start(order)
    const { stdout } = await readOutput(rig.runner, order.name, {
      signal: never,
      until: (said) => said.stdout.includes('up'),
    })
    expect(stdout.toString()).toBe('/run/secrets/token 400 65534\nup\n')
    const told = [started, await rig.docker.getContainer(order.name).inspect(), order]
    expect(JSON.stringify(told) + inspect(told, { depth: 10 })).not.toContain(value)
  })

  it.each(['/proc/self/fd/8', '/a/../proc/self/cwd', '/sys'])(
    'is not started from an image that would have it begin in %s',
    async (folder) => {
      const image = `${rig.installation}:1`
      const made = await rig.docker.createContainer({ Image: IMAGE })
      try {
        await made.commit({ repo: rig.installation, tag: '1', changes: `WORKDIR ${folder}` })
        const order = rig.order('echo in', { image })
        expect(await rig.startFailing(order)).toMatchObject({
          code: 'ENGINE_REFUSED',
          message: expect.stringContaining('is one of the kernel') as string,
        })
        expect(await rig.containers()).toEqual([])
        expect(existsSync(join(rig.dataDir, 'workers', order.name))).toBe(false)
      } finally {
        await made.remove()
        await rig.docker.getImage(image).remove({ force: true })
      }
    },
  )

  it('has nothing of what its image would add: no health check, no user', async () => {
    const image = `${rig.installation}:1`
    const made = await rig.docker.createContainer({ Image: IMAGE })
    try {
      await made.commit({
        repo: rig.installation,
        tag: '1',
        changes: 'USER root\nHEALTHCHECK --interval=1s CMD touch /tmp/checked',
      })
      const order = await rig.start('id -u; sleep 60', { image })
      await readOutput(rig.runner, order.name, { signal: never, until: ({ stdout }) => stdout === '65534\n' })
      const { Config, State } = await rig.docker.getContainer(order.name).inspect()
      expect(Config).toMatchObject({ User: '65534:65534', Healthcheck: { Test: ['NONE'] } })
      expect(State).not.toHaveProperty('Health')
      await rig.runner.remove(order.name)
    } finally {
      await made.remove()
      await rig.docker.getImage(image).remove({ force: true })
    }
  })

  it('keeps the secrets that it was started with when it is adopted', async () => {
    const order = { ...rig.order('sleep 60'), secrets: [new Secret('token', Buffer.from('old'))] }
    await rig.runner.start(order)
    await rig.runner.start({ ...order, secrets: [new Secret('token', Buffer.from('new'))] })
    const [kept] = await rig.runner.secrets(order.name)
    expect(Buffer.from(kept?.reveal() ?? []).toString()).toBe('old')
  })
})

describe("a worker that runs as the service's user", { timeout: 60_000 }, () => {
  /** A service that runs as root, or as the user that the preset names, owns the folder around those of the runs. */
  const asService = { user: `${process.getuid?.() ?? 0}:0`, writableRoot: false, capabilities: [] }
  let rig: DockerRig

  beforeEach(async () => {
    rig = await openRig()
  })
  afterEach(() => rig[Symbol.asyncDispose]())

  it('cannot have the mode of something else changed by a link in the place of a run to come', async () => {
    const target = join(rig.dataDir, 'target')
    const { name } = await rig.start(
      `ln -s ${target} /task/runs/task.2; echo up; sleep 60`,
      { relax: asService },
      { mode: 'SESSION' },
    )
    await mkdir(target, { mode: 0o700 })
    await readOutput(rig.runner, name, { signal: never, until: ({ stdout }) => stdout.includes('up') })
    const input = await rig.runner.openInput(name)
    await expect(
      input.run({ runId: 'task.2', attempt: 2, input: {}, files: [], previous: [] }),
    ).rejects.toThrow(/ENOTDIR|ELOOP/)
    expect((await stat(target)).mode & 0o777).toBe(0o700)
    input.detach()
  })
})

describe('what a worker leaves behind', { timeout: 60_000 }, () => {
  let rig: DockerRig

  beforeEach(async () => {
    rig = await openRig()
  })
  afterEach(() => rig[Symbol.asyncDispose]())

  it('is removed also where it lies deeper than a path can be long, and whatever its names are', async () => {
    const target = join(rig.dataDir, 'target')
    await mkdir(target, { recursive: true })
    await writeFile(join(target, 'kept'), '')
    const { name } = await rig.start(`
      cd "$OUTPUT_DIR"
      part=$(printf 'n%.0s' $(seq 1 200)); top=$PWD
      for round in 1 2 3 4 5 6 7 8; do
        mkdir -p "$top/new/$part/$part/$part/$part/$part"
        [ -e "$top/deep" ] && mv "$top/deep" "$top/new/$part/$part/$part/$part/$part/"
        mv "$top/new" "$top/deep"
      done
      printf 'x' > "$(printf 'not \\377 UTF-8')"
      printf 'x' > "$(printf 'two\\nlines')"
      ln -s ${target} link; ln -s / root; mkfifo pipe
      echo made`)
    const { stdout, end } = await readOutput(rig.runner, name, { signal: never })
    expect([stdout.toString(), end]).toMatchObject(['made\n', { exitCode: 0 }])
    await rig.runner.remove(name)
    expect(existsSync(join(rig.dataDir, 'workers', name))).toBe(false)
    expect(await readdir(target)).toEqual(['kept'])
  })
})
