// The module `events`.

const errorMonitor = Symbol("events.errorMonitor");
const captureRejectionSymbol = Symbol.for("nodejs.rejection");
let defaultMaxListeners = 10;

// A function, so that `EventEmitter.call(this)` and `util.inherits` work.
function EventEmitter() {
  if (this._events === undefined || this._events === getPrototypeOf(this)._events) {
    this._events = { __proto__: null };
    this._eventsCount = 0;
  }
  this._maxListeners = this._maxListeners || undefined;
}

const listenersOf = (emitter, name) => emitter._events?.[name];

function addListener(emitter, name, listener, first) {
  checkFunction(listener, "listener");
  if (emitter._events === undefined) EventEmitter.call(emitter);
  if (emitter._events.newListener !== undefined) emitter.emit("newListener", name, listener.listener ?? listener);
  const list = emitter._events[name];
  if (list === undefined) {
    emitter._events[name] = [listener];
    emitter._eventsCount++;
  } else {
    emitter._events[name] = first ? [listener, ...list] : [...list, listener];
    const most = emitter.getMaxListeners();
    if (most > 0 && list.length === most) {
      hostWrite(
        WARN,
        `MaxListenersExceededWarning: ${most + 1} ${StringOf(name)} listeners added to [${emitter.constructor.name}]. Use emitter.setMaxListeners() to increase limit`,
      );
    }
  }
  return emitter;
}

function onceWrapper(emitter, name, listener) {
  checkFunction(listener, "listener");
  let fired = false;
  const wrapped = function (...args) {
    if (fired) return;
    fired = true;
    emitter.removeListener(name, wrapped);
    return apply(listener, emitter, args);
  };
  wrapped.listener = listener;
  return wrapped;
}

assign(EventEmitter.prototype, {
  _events: undefined,
  _eventsCount: 0,
  _maxListeners: undefined,

  on(name, listener) {
    return addListener(this, name, listener, false);
  },
  addListener(name, listener) {
    return addListener(this, name, listener, false);
  },
  prependListener(name, listener) {
    return addListener(this, name, listener, true);
  },
  once(name, listener) {
    return this.on(name, onceWrapper(this, name, listener));
  },
  prependOnceListener(name, listener) {
    return this.prependListener(name, onceWrapper(this, name, listener));
  },

  removeListener(name, listener) {
    checkFunction(listener, "listener");
    const list = listenersOf(this, name);
    if (list === undefined) return this;
    for (let i = list.length - 1; i >= 0; i--) {
      if (list[i] !== listener && list[i].listener !== listener) continue;
      const original = list[i].listener ?? list[i];
      if (list.length === 1) {
        delete this._events[name];
        this._eventsCount--;
      } else {
        const rest = sliceArray(list);
        splice(rest, i, 1);
        this._events[name] = rest;
      }
      if (this._events.removeListener !== undefined) this.emit("removeListener", name, original);
      break;
    }
    return this;
  },
  off(name, listener) {
    return this.removeListener(name, listener);
  },
  removeAllListeners(name) {
    if (this._events === undefined) return this;
    const names = name === undefined ? ownKeys(this._events).filter((key) => key !== "removeListener") : [name];
    if (name === undefined) push(names, "removeListener");
    for (const each of names) {
      const list = this._events[each] ?? [];
      for (let i = list.length - 1; i >= 0; i--) this.removeListener(each, list[i]);
    }
    return this;
  },

  emit(name, ...args) {
    const list = listenersOf(this, name);
    if (name === "error") {
      const watchers = listenersOf(this, errorMonitor);
      if (watchers !== undefined) this.emit(errorMonitor, ...args);
      if (list === undefined) throw unhandled(args[0]);
    }
    if (list === undefined) return false;
    for (let i = 0; i < list.length; i++) apply(list[i], this, args);
    return true;
  },

  listenerCount(name, listener) {
    const list = listenersOf(this, name) ?? [];
    if (listener === undefined || listener === null) return list.length;
    return list.filter((known) => known === listener || known.listener === listener).length;
  },
  listeners(name) {
    return (listenersOf(this, name) ?? []).map((listener) => listener.listener ?? listener);
  },
  rawListeners(name) {
    return [...(listenersOf(this, name) ?? [])];
  },
  eventNames() {
    return this._events === undefined ? [] : ownKeys(this._events);
  },
  setMaxListeners(count) {
    if (typeof count !== "number" || count < 0 || isNaNumber(count)) throw rangeError("setMaxListeners", ">= 0", count);
    this._maxListeners = count;
    return this;
  },
  getMaxListeners() {
    return this._maxListeners ?? defaultMaxListeners;
  },
});

function unhandled(error) {
  if (error instanceof ErrorClass) return error;
  const wrapped = nodeError(
    ErrorClass,
    "ERR_UNHANDLED_ERROR",
    `Unhandled error. (${typeof error === "string" ? quote(error) : inspect(error)})`,
  );
  wrapped.context = error;
  return wrapped;
}

assign(EventEmitter, {
  EventEmitter,
  errorMonitor,
  captureRejectionSymbol,
  usingDomains: false,

  once(emitter, name, options) {
    const signal = options?.signal;
    return new PromiseClass((resolve, reject) => {
      if (signal?.aborted) return reject(aborted(signal));
      if (typeof emitter.addEventListener === "function" && typeof emitter.on !== "function") {
        emitter.addEventListener(name, (event) => resolve([event]), { once: true, signal });
        if (signal) onAbort(signal, () => reject(aborted(signal)));
        return;
      }
      const forget = signal ? onAbort(signal, () => finish(reject, aborted(signal))) : () => {};
      const finish = (settleWith, value) => {
        forget();
        emitter.removeListener(name, onEvent);
        emitter.removeListener("error", onError);
        settleWith(value);
      };
      const onEvent = (...args) => finish(resolve, args);
      const onError = (error) => finish(reject, error);
      emitter.once(name, onEvent);
      if (name !== "error") emitter.once("error", onError);
    });
  },

  on(emitter, name, options) {
    const signal = options?.signal;
    if (signal?.aborted) throw aborted(signal);
    const values = [];
    const takers = [];
    let failure = null;
    let done = false;
    const onEvent = (...args) => {
      const taker = takers.shift();
      if (taker) taker.resolve({ value: args, done: false });
      else push(values, args);
    };
    const fail = (error) => {
      const taker = takers.shift();
      if (taker) taker.reject(error);
      else failure = error;
      stop();
    };
    const stop = () => {
      done = true;
      emitter.removeListener(name, onEvent);
      emitter.removeListener("error", fail);
      for (const taker of takers.splice(0)) taker.resolve({ value: undefined, done: true });
      return PromiseClass.resolve({ value: undefined, done: true });
    };
    emitter.on(name, onEvent);
    if (name !== "error") emitter.on("error", fail);
    if (signal) onAbort(signal, () => fail(aborted(signal)));
    return {
      next() {
        if (values.length > 0) return PromiseClass.resolve({ value: values.shift(), done: false });
        if (failure !== null) {
          const error = failure;
          failure = null;
          return PromiseClass.reject(error);
        }
        if (done) return PromiseClass.resolve({ value: undefined, done: true });
        return new PromiseClass((resolve, reject) => push(takers, { resolve, reject }));
      },
      return: stop,
      throw(error) {
        fail(error);
        return PromiseClass.resolve({ value: undefined, done: true });
      },
      [ASYNC_ITERATOR]() {
        return this;
      },
    };
  },

  listenerCount: (emitter, name) => emitter.listenerCount(name),
  getEventListeners: (emitter, name) => emitter.listeners(name),
  setMaxListeners(count = defaultMaxListeners, ...emitters) {
    if (emitters.length === 0) defaultMaxListeners = count;
    else for (const emitter of emitters) emitter.setMaxListeners(count);
  },
});

defineProperty(EventEmitter, "defaultMaxListeners", {
  enumerable: true,
  get: () => defaultMaxListeners,
  set(count) {
    if (typeof count !== "number" || count < 0 || isNaNumber(count))
      throw rangeError("defaultMaxListeners", "a non-negative number", count);
    defaultMaxListeners = count;
  },
});
