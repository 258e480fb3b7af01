// The module `util`.

const PROMISIFY_CUSTOM = Symbol.for("nodejs.util.promisify.custom");

function promisify(original) {
  checkFunction(original, "original");
  const custom = original[PROMISIFY_CUSTOM];
  if (custom) {
    checkFunction(custom, "util.promisify.custom");
    return defineProperty(custom, PROMISIFY_CUSTOM, { value: custom, configurable: true }) && custom;
  }
  function promisified(...args) {
    return new PromiseClass((resolve, reject) => {
      apply(original, this, [...args, (error, ...values) => (error ? reject(error) : resolve(values[0]))]);
    });
  }
  setPrototypeOf(promisified, getPrototypeOf(original));
  defineProperty(promisified, PROMISIFY_CUSTOM, { value: promisified, configurable: true });
  for (const key of ownKeys(original))
    if (key !== "prototype")
      try {
        defineProperty(promisified, key, getOwnPropertyDescriptor(original, key));
      } catch {
        /* as it is */
      }
  return promisified;
}
promisify.custom = PROMISIFY_CUSTOM;

function callbackify(original) {
  checkFunction(original, "original");
  return function (...args) {
    const callback = args.pop();
    checkFunction(callback, "last argument");
    promiseThen(
      apply(original, this, args),
      (value) => later(callback, null, value),
      (reason) => {
        if (!reason) {
          const wrapped = nodeError(ErrorClass, "ERR_FALSY_VALUE_REJECTION", "Promise was rejected with falsy value");
          wrapped.reason = reason;
          return later(callback, wrapped);
        }
        later(callback, reason);
      },
    );
  };
}

function inherits(Class, Parent) {
  checkFunction(Class, "ctor");
  checkFunction(Parent, "superCtor");
  if (Parent.prototype === undefined) throw argumentError("superCtor.prototype", "of type object", Parent.prototype);
  defineProperty(Class, "super_", { value: Parent, writable: true, configurable: true });
  setPrototypeOf(Class.prototype, Parent.prototype);
}

function deprecate(original, message, code) {
  let warned = false;
  return function (...args) {
    if (!warned) {
      warned = true;
      hostWrite(WARN, `${code ? `[${StringOf(code)}] ` : ""}DeprecationWarning: ${StringOf(message)}`);
    }
    return new.target ? construct(original, args, new.target) : apply(original, this, args);
  };
}

const isKind = (kind) => (value) => typeof value === "object" && value !== null && classOf(value) === kind;
const isViewOf = (name) => (value) => isView(value) && tagOfView(value) === name;

const types = {
  isAnyArrayBuffer: isKind("ArrayBuffer"),
  isArrayBuffer: isKind("ArrayBuffer"),
  isSharedArrayBuffer: () => false,
  isArrayBufferView: (value) => isView(value),
  isArgumentsObject: isKind("Arguments"),
  isAsyncFunction: (value) => typeof value === "function" && matches(/^\[object Async/, tagText(value)),
  isGeneratorFunction: (value) => typeof value === "function" && matches(/GeneratorFunction\]$/, tagText(value)),
  isGeneratorObject: (value) => tagOf(value) === "[object Generator]" || tagOf(value) === "[object AsyncGenerator]",
  isBigInt64Array: isViewOf("BigInt64Array"),
  isBigUint64Array: isViewOf("BigUint64Array"),
  isFloat32Array: isViewOf("Float32Array"),
  isFloat64Array: isViewOf("Float64Array"),
  isInt8Array: isViewOf("Int8Array"),
  isInt16Array: isViewOf("Int16Array"),
  isInt32Array: isViewOf("Int32Array"),
  isUint8Array: isViewOf("Uint8Array"),
  isUint8ClampedArray: isViewOf("Uint8ClampedArray"),
  isUint16Array: isViewOf("Uint16Array"),
  isUint32Array: isViewOf("Uint32Array"),
  isTypedArray: isKind("TypedArray"),
  isDataView: isKind("DataView"),
  isDate: isKind("Date"),
  isMap: isKind("Map"),
  isSet: isKind("Set"),
  isWeakMap: isKind("WeakMap"),
  isWeakSet: isKind("WeakSet"),
  isPromise: isKind("Promise"),
  isRegExp: isKind("RegExp"),
  isNativeError: isKind("Error"),
  isBooleanObject: isKind("Boolean"),
  isNumberObject: isKind("Number"),
  isStringObject: isKind("String"),
  isBigIntObject: isKind("BigInt"),
  isSymbolObject: isKind("Symbol"),
  isBoxedPrimitive: (value) =>
    typeof value === "object" &&
    value !== null &&
    arrayHas(["Boolean", "Number", "String", "BigInt", "Symbol"], classOf(value)),
  isMapIterator: (value) => tagOf(value) === "[object Map Iterator]",
  isSetIterator: (value) => tagOf(value) === "[object Set Iterator]",
  isModuleNamespaceObject: (value) => tagOf(value) === "[object Module]",
  isExternal: () => false,
  isKeyObject: (value) => value instanceof KeyObject,
  isCryptoKey: (value) => cryptoKeyBytes(value) !== undefined,
};

const noDebug = () => assign(() => {}, { enabled: false });

const util = {
  format,
  formatWithOptions(options, ...values) {
    if (typeof options !== "object" || options === null) throw argumentError("inspectOptions", "of type object", options);
    return formatWith(options, values);
  },
  inspect,
  promisify,
  callbackify,
  inherits,
  deprecate,
  types,
  isDeepStrictEqual: (left, right) => deepEqual(left, right, true),
  isArray,
  stripVTControlCharacters(text) {
    checkString(text, "str");
    return replaceBy(
      /[\u001b\u009b][[\]()#;?]*(?:(?:\d{1,4}(?:;\d{0,4})*)?[\dA-PR-TZcf-nq-uy=><~]|[^\u0007]*\u0007)/g,
      text,
      "",
    );
  },
  toUSVString: (text) => wellFormed(StringOf(text)),
  debuglog: noDebug,
  debug: noDebug,
  aborted: (signal) => new PromiseClass((resolve) => (signal.aborted ? resolve() : onAbort(signal, resolve))),
  TextEncoder,
  TextDecoder,
};
