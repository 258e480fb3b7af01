// `Event`, `EventTarget`, `AbortController`, `AbortSignal`.

class Event {
  #type;
  #init;
  #stopped = false;
  #canceled = false;
  #time = now();
  target = null;
  currentTarget = null;

  constructor(type, init = {}) {
    if (arguments.length === 0) throw nodeError(TypeErrorClass, "ERR_MISSING_ARGS", 'The "type" argument must be specified');
    this.#type = StringOf(type);
    this.#init = { bubbles: Boolean(init?.bubbles), cancelable: Boolean(init?.cancelable), composed: Boolean(init?.composed) };
  }
  get type() {
    return this.#type;
  }
  get bubbles() {
    return this.#init.bubbles;
  }
  get cancelable() {
    return this.#init.cancelable;
  }
  get composed() {
    return this.#init.composed;
  }
  get defaultPrevented() {
    return this.#canceled;
  }
  get timeStamp() {
    return this.#time;
  }
  get eventPhase() {
    return this.currentTarget ? 2 : 0;
  }
  get isTrusted() {
    return false;
  }
  preventDefault() {
    if (this.#init.cancelable) this.#canceled = true;
  }
  stopPropagation() {}
  stopImmediatePropagation() {
    this.#stopped = true;
  }
  composedPath() {
    return this.currentTarget ? [this.currentTarget] : [];
  }
  static isStopped(event) {
    return event.#stopped;
  }
}
const isStopped = Event.isStopped;
delete Event.isStopped;

class CustomEvent extends Event {
  #detail;
  constructor(type, init = {}) {
    super(type, init);
    this.#detail = init?.detail ?? null;
  }
  get detail() {
    return this.#detail;
  }
}

class EventTarget {
  #listeners = new MapClass();

  addEventListener(type, listener, options) {
    if (listener === null || listener === undefined) return;
    const { once = false, signal } = typeof options === "object" && options !== null ? options : {};
    if (signal?.aborted) return;
    const key = StringOf(type);
    const list = mapGet(this.#listeners, key) ?? [];
    for (const known of list) if (known.listener === listener) return;
    mapSet(this.#listeners, key, [...list, { listener, once }]);
    signal?.addEventListener("abort", () => this.removeEventListener(key, listener), { once: true });
  }
  removeEventListener(type, listener) {
    const key = StringOf(type);
    const list = mapGet(this.#listeners, key);
    if (list)
      mapSet(
        this.#listeners,
        key,
        list.filter((known) => known.listener !== listener),
      );
  }
  dispatchEvent(event) {
    if (!(event instanceof Event)) throw argumentError("event", "an instance of Event", event);
    event.target = event.currentTarget = this;
    for (const known of mapGet(this.#listeners, event.type) ?? []) {
      if (known.once) this.removeEventListener(event.type, known.listener);
      if (typeof known.listener === "function") apply(known.listener, this, [event]);
      else known.listener.handleEvent?.(event);
      if (isStopped(event)) break;
    }
    event.currentTarget = null;
    return !event.defaultPrevented;
  }
}

let makingSignal = false;
let abortSignal;
let signalCallbacks;

class AbortSignal extends EventTarget {
  #aborted = false;
  #reason;
  #done = [];
  onabort = null;

  constructor() {
    if (!makingSignal) throw illegal();
    makingSignal = false;
    super();
  }
  get aborted() {
    return this.#aborted;
  }
  get reason() {
    return this.#reason;
  }
  throwIfAborted() {
    if (this.#aborted) throw this.#reason;
  }

  static abort(reason) {
    const signal = newSignal();
    abortSignal(signal, reason);
    return signal;
  }
  static timeout(ms) {
    checkInteger(ms, "delay", 0, 4294967295);
    const signal = newSignal();
    begin([undefined, TIMER, StringOf(ms)], () => {
      abortSignal(signal, domError("TimeoutError", "The operation was aborted due to timeout"));
    });
    return signal;
  }
  static any(signals) {
    const result = newSignal();
    const all = [...signals];
    for (const signal of all) {
      if (!(signal instanceof AbortSignal)) throw argumentError("signals", "an iterable of AbortSignal", signal);
      if (signal.aborted) {
        abortSignal(result, signal.reason);
        return result;
      }
    }
    for (const signal of all) onAbort(signal, () => abortSignal(result, signal.reason));
    return result;
  }

  static {
    abortSignal = (signal, reason) => {
      if (signal.#aborted) return;
      signal.#aborted = true;
      signal.#reason = reason === undefined ? domError("AbortError", "This operation was aborted") : reason;
      const done = signal.#done;
      signal.#done = [];
      for (let i = 0; i < done.length; i++) done[i]();
      const event = new Event("abort");
      signal.dispatchEvent(event);
      if (typeof signal.onabort === "function") apply(signal.onabort, signal, [event]);
    };
    signalCallbacks = (signal) => signal.#done;
  }
}

function newSignal() {
  makingSignal = true;
  return new AbortSignal();
}

// Runs `run` when `signal` aborts; the returned function takes that back.
function onAbort(signal, run) {
  const list = signalCallbacks(signal);
  push(list, run);
  return () => {
    const live = signalCallbacks(signal);
    for (let i = 0; i < live.length; i++) if (live[i] === run) return void splice(live, i, 1);
  };
}

class AbortController {
  #signal = newSignal();
  get signal() {
    return this.#signal;
  }
  abort(reason) {
    abortSignal(this.#signal, reason);
  }
}

for (const [Class, name] of [
  [Event, "Event"],
  [EventTarget, "EventTarget"],
  [AbortSignal, "AbortSignal"],
  [AbortController, "AbortController"],
])
  webInterface(Class, name);
