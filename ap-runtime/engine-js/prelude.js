// Runs once, when the engine is built; what it leaves behind is part of the snapshot. It evaluates to a function that
// receives what a step may cause to be called of the host, and gives back what the host calls.
(function (host) {
  const write = host.write;
  "use strict";
  // Kept here, because a step may replace any of them. It only ever harms itself, but its log should survive.
  const stringify = JSON.stringify;
  const join = Function.prototype.call.bind(Array.prototype.join);
  const ErrorClass = Error;
  const StringOf = String;

  function show(value) {
    if (typeof value === "string") return value;
    try {
      if (value instanceof ErrorClass) return showError(value);
      if (typeof value === "function") return `[function ${value.name || "anonymous"}]`;
      return stringify(value) ?? StringOf(value);
    } catch {
      return unprintable(value);
    }
  }

  function showError(error) {
    const head = `${error.name}: ${error.message}`;
    return error.stack ? `${head}\n${error.stack}` : head;
  }

  // A cycle, a BigInt, a getter that throws.
  function unprintable(value) {
    try {
      return StringOf(value);
    } catch {
      return `[${typeof value}]`;
    }
  }

  function logger(level) {
    return (...values) => {
      for (let i = 0; i < values.length; i++) values[i] = show(values[i]);
      write(level, join(values, " "));
    };
  }

  function missing(name) {
    const error = new ErrorClass(`module '${name}' is not available in a code step`);
    error.code = "MODULE_NOT_FOUND";
    return error;
  }

  function require(name) {
    throw missing(StringOf(name));
  }

  // The function to run, and what it gets as its second argument.
  function pick(namespace, context) {
    const found = namespace.code ?? namespace.default;
    return typeof found === "function" ? [found, context] : undefined;
  }

  // The index is the level number the host knows.
  const levels = ["debug", "info", "log", "warn", "error"];
  const console = {};
  for (let level = 0; level < levels.length; level++) console[levels[level]] = logger(level);

  const hidden = (value) => ({ value, writable: true, enumerable: false, configurable: true });
  Object.defineProperties(globalThis, { console: hidden(console), require: hidden(require) });
  // A result is what values become, not text that a step wrote: the host relies on the form of numbers and escapes.
  delete JSON.rawJSON;
  delete JSON.isRawJSON;
  // Shared memory has no second thread to share with, and would only serve as a clock.
  delete globalThis.SharedArrayBuffer;
  delete globalThis.Atomics;

  return { settle: () => {}, pick, modules: {}, missing };
});
