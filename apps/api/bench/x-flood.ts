import { readFile } from 'node:fs/promises'
process.env['GPU_SERVICE_TEST_ENGINE']='reachable'
const { TestService } = await import('../test/e2e/service.ts')
const { CONNECTED, FINISHED, script } = await import('../test/e2e/scripts.ts')
const N = 1_000_000
const FLOOD = `${CONNECTED}; yes '{"event":"text_delta","delta":"token 1234 "}' | head -n ${N}; ${FINISHED}`
const s = await TestService.start({ runner: 'docker', presets: { flood: script(FLOOD) }, env: {} })
const rss = async () => Number(/VmRSS:\s+(\d+)/.exec(await readFile(`/proc/${s.pid}/status`, 'utf8'))?.[1]) / 1024
const before = await rss()
let most = 0
const t = setInterval(() => void rss().then((r) => { most = Math.max(most, r) }), 100)
const sub = process.argv[3] !== 'nosub'
for (let k = 0; k < 1; k++) {
  const id = await s.submit('flood')
  let seen = 0, first = 0
  if (sub) for await (const d of s.subscribe<any>('subscription ($id: ID!) { taskEvents(taskId: $id) { events { seq ... on TextDeltaEvent { delta } } } }', { id })) { for (const e of d.taskEvents.events) { if (e.delta === undefined) continue; if (!seen) first = performance.now(); seen++ } }
  else { await s.reached(id,'RUNNING'); first = performance.now(); while ((await s.task(id)).status==='RUNNING') await new Promise(r=>setTimeout(r,50)); seen=N }
  console.log(Math.round(seen / (performance.now() - first) * 1000), 'ev/s', 'rss before', before, 'most', most)
}
clearInterval(t)
console.log(s.output.split('\n').filter((l) => /Mark-Compact/.test(l)).join('\n'))
await s.down(); await s[Symbol.asyncDispose]()
