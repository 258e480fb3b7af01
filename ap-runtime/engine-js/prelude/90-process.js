// `process` and `performance`, as far as programs look at them. There is no environment, and no way to end but to return.

let firstTime;
const elapsedMs = () => now() - (firstTime ??= now());

const performance = {
  now: elapsedMs,
  get timeOrigin() {
    elapsedMs();
    return firstTime;
  },
  mark: () => undefined,
  measure: () => undefined,
  toJSON: () => ({ timeOrigin: performance.timeOrigin }),
};

function hrtime(before) {
  const ms = elapsedMs();
  let seconds = floor(ms / 1000);
  let nanoseconds = (ms % 1000) * 1e6;
  if (before) {
    seconds -= before[0];
    nanoseconds -= before[1];
    if (nanoseconds < 0) {
      seconds--;
      nanoseconds += 1e9;
    }
  }
  return [seconds, nanoseconds];
}
hrtime.bigint = () => BigInt(elapsedMs()) * 1000000n;

const nothing = freeze({ __proto__: null });

const process = {
  env: nothing,
  argv: freeze([]),
  execArgv: freeze([]),
  title: "code step",
  platform: "linux",
  arch: "wasm32",
  pid: 1,
  ppid: 0,
  version: "v20.0.0",
  versions: freeze({ __proto__: null, node: "20.0.0" }),
  release: freeze({ name: "node" }),
  features: nothing,
  cwd: () => "/",
  uptime: () => elapsedMs() / 1000,
  hrtime,
  nextTick(callback, ...args) {
    checkFunction(callback, "callback");
    enqueue(() => apply(callback, undefined, args));
  },
  emitWarning(warning, type = "Warning") {
    const text =
      warning instanceof ErrorClass
        ? `${warning.name}: ${warning.message}`
        : `${StringOf(type?.type ?? type)}: ${StringOf(warning)}`;
    hostWrite(WARN, text);
  },
  memoryUsage: () => ({ rss: 0, heapTotal: 0, heapUsed: 0, external: 0, arrayBuffers: 0 }),
  stdout: { isTTY: false, write: (text) => (hostWrite(LOG, replaceBy(/\n$/, StringOf(text), "")), true) },
  stderr: { isTTY: false, write: (text) => (hostWrite(ERROR, replaceBy(/\n$/, StringOf(text), "")), true) },
  on: () => process,
  once: () => process,
  off: () => process,
  emit: () => false,
  listenerCount: () => 0,
};
defineProperty(process, TAG, { value: "process", configurable: true });
