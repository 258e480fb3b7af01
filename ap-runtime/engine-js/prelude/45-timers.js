// Timers. Each waits as one host call, so that the host's clock decides; they run in the order of their times.

const MOST_TIMERS = 1000;
// Those of the earliest timers have a host call under way, which a host allows only so many of.
const MOST_ARMED = 200;
const LONGEST_DELAY = 2 ** 31 - 1;

// Those that wait, by time and then age.
const timers = [];

class Timeout {
  #run;
  #args;
  #delay;
  #repeat;
  #due = 0;
  #call = 0;
  #id;

  constructor(run, delay, args, repeat) {
    checkFunction(run, "callback");
    let ms = +delay;
    if (!(ms >= 1 && ms <= LONGEST_DELAY)) ms = delay === IMMEDIATE ? 0 : 1;
    this.#run = run;
    this.#args = args;
    this.#delay = trunc(ms);
    this.#repeat = repeat;
    this.#id = ++lastTimer;
    this.#start();
  }

  #start() {
    if (timers.length >= MOST_TIMERS)
      throw nodeError(RangeErrorClass, "ERR_TOO_MANY_TIMERS", `more than ${MOST_TIMERS} timers wait at once`);
    this.#due = now() + this.#delay;
    let at = timers.length;
    while (at > 0 && timers[at - 1].#due > this.#due) at--;
    splice(timers, at, 0, this);
    if (at >= MOST_ARMED) return;
    this.#arm();
    if (timers.length > MOST_ARMED) timers[MOST_ARMED].#disarm();
  }

  #arm() {
    const call = begin([undefined, TIMER, StringOf(max(0, this.#due - now()))], (error) => {
      if (error) throw error;
      const next = timers[0];
      if (next === undefined) return;
      // Whichever call is settled first, the timer that is due first runs; the other takes its call over.
      if (next.#call !== call)
        for (let i = 0; i < timers.length; i++) if (timers[i].#call === call) timers[i].#call = next.#call;
      next.#call = 0;
      Timeout.#remove(0);
      if (next.#repeat) next.#start();
      apply(next.#run, next, next.#args);
    });
    this.#call = call;
  }

  #disarm() {
    if (this.#call !== 0) cancel(this.#call);
    this.#call = 0;
  }

  static #remove(at) {
    timers[at].#disarm();
    splice(timers, at, 1);
    if (at < MOST_ARMED && timers.length >= MOST_ARMED) {
      const last = timers[MOST_ARMED - 1];
      if (last.#call === 0) last.#arm();
    }
  }

  static stop(timer) {
    for (let i = 0; i < timers.length; i++) {
      if (timers[i] !== timer && !(typeof timer !== "object" && timers[i].#id === +timer)) continue;
      timers[i].#repeat = false;
      Timeout.#remove(i);
      return;
    }
    // An interval that stops itself while it runs has been started again, and was found above.
  }

  ref() {
    return this;
  }
  unref() {
    return this;
  }
  hasRef() {
    return true;
  }
  refresh() {
    const repeat = this.#repeat;
    stopTimer(this);
    this.#repeat = repeat;
    this.#start();
    return this;
  }
  close() {
    stopTimer(this);
    return this;
  }
  [TO_PRIMITIVE]() {
    return this.#id;
  }
}

let lastTimer = 0;
const IMMEDIATE = { valueOf: () => 0 };
const stopTimer = Timeout.stop;
delete Timeout.stop;

const setTimeout = (callback, delay, ...args) => new Timeout(callback, delay, args, false);
const setInterval = (callback, delay, ...args) => new Timeout(callback, delay, args, true);
const setImmediate = (callback, ...args) => new Timeout(callback, IMMEDIATE, args, false);
const clearTimeout = (timer) => stopTimer(timer);
const clearInterval = (timer) => stopTimer(timer);
const clearImmediate = (timer) => stopTimer(timer);

function wait(start, value, options) {
  const signal = options?.signal;
  return new PromiseClass((resolve, reject) => {
    if (signal?.aborted) return reject(aborted(signal));
    let forget = () => {};
    const timer = start(() => {
      forget();
      resolve(value);
    });
    if (signal) {
      forget = onAbort(signal, () => {
        stopTimer(timer);
        reject(aborted(signal));
      });
    }
  });
}

function aborted(signal) {
  const error = new ErrorClass("The operation was aborted", { cause: signal?.reason });
  error.code = "ABORT_ERR";
  error.name = "AbortError";
  return error;
}

const timersPromises = {
  setTimeout: (delay, value, options) => wait((done) => setTimeout(done, delay), value, options),
  setImmediate: (value, options) => wait((done) => setImmediate(done), value, options),
  async *setInterval(delay, value, options) {
    while (true) yield await timersPromises.setTimeout(delay, value, options);
  },
  scheduler: {
    wait: (delay, options) => timersPromises.setTimeout(delay, undefined, options),
    yield: () => timersPromises.setImmediate(),
  },
};
defineProperty(setTimeout, Symbol.for("nodejs.util.promisify.custom"), hidden(timersPromises.setTimeout));
defineProperty(setImmediate, Symbol.for("nodejs.util.promisify.custom"), hidden(timersPromises.setImmediate));
