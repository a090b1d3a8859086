// Loaded into a service before its own code; tells its parent how the service's only thread and its built-in objects have fared.

const BUILT_IN = [Object, Array, String, Number, Boolean, Function, Map, Set, Promise, RegExp, Date, Error]
const TICK_MS = 5

const namesOf = () => BUILT_IN.map(({ name, prototype }) => [name, Reflect.ownKeys(prototype).map(String)])
const before = JSON.stringify(namesOf())

let longestMs = 0
let last = process.cpuUsage()
// Between two ticks only what holds the thread counts: not what other processes did with the machine meanwhile.
setInterval(() => {
  const { user, system } = process.cpuUsage(last)
  last = process.cpuUsage()
  longestMs = Math.max(longestMs, (user + system) / 1_000)
}, TICK_MS).unref()

process.on('message', (message) => {
  if (message?.ask !== 'how are you?') return
  process.send({ longestMs, isUnchanged: JSON.stringify(namesOf()) === before })
  longestMs = 0
})
// The channel alone does not keep the service from ending.
process.channel?.unref()
