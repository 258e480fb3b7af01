// The globals, and what the host gets.

// Web interfaces and Node's globals; neither are listed.
defineHidden(globalThis, {
  AbortController,
  AbortSignal,
  Blob,
  Buffer,
  CryptoKey,
  CustomEvent,
  Event,
  EventTarget,
  File,
  FormData,
  Headers,
  Intl,
  Request,
  Response,
  TextDecoder,
  TextEncoder,
  URL,
  URLSearchParams,
  clearImmediate,
  clearInterval,
  clearTimeout,
  console,
  crypto: nodeCrypto,
  exports: commonModule.exports,
  fetch,
  global: globalThis,
  mask,
  module: commonModule,
  performance,
  process,
  require,
  setImmediate,
  setInterval,
  setTimeout,
  structuredClone,
});

// A result is what values become, not text that a step wrote: the host relies on the form of numbers and escapes.
delete JSON.rawJSON;
delete JSON.isRawJSON;
// Shared memory has no second thread to share with, and would only serve as a clock.
delete globalThis.SharedArrayBuffer;
delete globalThis.Atomics;

const platform = { settle, pick, modules, missing };
