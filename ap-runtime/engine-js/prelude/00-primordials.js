// What the platform itself needs later, kept before a step can replace it. A step may change any global or prototype; it
// then harms its own run and nothing else: no host function is ever stored in an object, passed to a callback or thrown.

const { write: hostWrite, call: hostCall, start: hostStart, encode: hostEncode, decode: hostDecode } = host;

const { apply, construct, deleteProperty, ownKeys, getPrototypeOf, setPrototypeOf } = Reflect;
const uncurry = Function.prototype.bind.bind(Function.prototype.call);
const { isArray } = Array;
const {
  assign,
  create,
  defineProperty,
  defineProperties,
  entries: objectEntries,
  freeze,
  getOwnPropertyDescriptor,
  is,
  keys: objectKeys,
} = Object;
const hasOwn = Object.hasOwn;
const ObjectPrototype = Object.prototype;
const StringOf = String;
const NumberOf = Number;
const ErrorClass = Error;
const TypeErrorClass = TypeError;
const RangeErrorClass = RangeError;
const PromiseClass = Promise;
const MapClass = Map;
const SetClass = Set;
const DateClass = Date;
const RegExpClass = RegExp;
const U8 = Uint8Array;
const BufferOf = ArrayBuffer;
const View = DataView;
const DOMExceptionClass = DOMException;
const { parse: parseJson, stringify: toJson } = JSON;
const { min, max, floor, round, sqrt, abs, trunc } = Math;
const { isInteger, isSafeInteger, isNaN: isNaNumber, isFinite: isFiniteNumber } = Number;
const { fromCharCode, fromCodePoint } = String;
const now = Date.now;
const isView = ArrayBuffer.isView;

const promiseThen = uncurry(Promise.prototype.then);
const mapGet = uncurry(Map.prototype.get);
const mapSet = uncurry(Map.prototype.set);
const mapHas = uncurry(Map.prototype.has);
const mapDelete = uncurry(Map.prototype.delete);
const mapForEach = uncurry(Map.prototype.forEach);
const setForEach = uncurry(Set.prototype.forEach);
const setAdd = uncurry(Set.prototype.add);
const setHas = uncurry(Set.prototype.has);
const join = uncurry(Array.prototype.join);
const push = uncurry(Array.prototype.push);
const splice = uncurry(Array.prototype.splice);
const sliceArray = uncurry(Array.prototype.slice);
const sliceText = uncurry(String.prototype.slice);
const indexOfText = uncurry(String.prototype.indexOf);
const charCode = uncurry(String.prototype.charCodeAt);
const lower = uncurry(String.prototype.toLowerCase);
const upper = uncurry(String.prototype.toUpperCase);
const splitText = uncurry(String.prototype.split);
const trim = uncurry(String.prototype.trim);
const padStart = uncurry(String.prototype.padStart);
const padEnd = uncurry(String.prototype.padEnd);
const repeat = uncurry(String.prototype.repeat);
const wellFormed = uncurry(String.prototype.toWellFormed);
const numberText = uncurry(Number.prototype.toString);
const fixedText = uncurry(Number.prototype.toFixed);
const matches = uncurry(RegExp.prototype.test);
const exec = uncurry(RegExp.prototype.exec);
const replaceBy = uncurry(RegExp.prototype[Symbol.replace]);
const functionText = uncurry(Function.prototype.toString);
const tagText = uncurry(Object.prototype.toString);
const isOwnEnumerable = uncurry(Object.prototype.propertyIsEnumerable);

const typedArrayPrototype = getPrototypeOf(U8.prototype);
const tagOfView = uncurry(getOwnPropertyDescriptor(typedArrayPrototype, Symbol.toStringTag).get);
const viewLength = uncurry(getOwnPropertyDescriptor(typedArrayPrototype, "length").get);
const viewBuffer = uncurry(getOwnPropertyDescriptor(typedArrayPrototype, "buffer").get);
const viewOffset = uncurry(getOwnPropertyDescriptor(typedArrayPrototype, "byteOffset").get);
const viewBytes = uncurry(getOwnPropertyDescriptor(typedArrayPrototype, "byteLength").get);
const copyInto = uncurry(typedArrayPrototype.set);
const fillBytes = uncurry(typedArrayPrototype.fill);
const bufferLength = uncurry(getOwnPropertyDescriptor(BufferOf.prototype, "byteLength").get);
const sliceBuffer = uncurry(BufferOf.prototype.slice);
const dataViewBuffer = uncurry(getOwnPropertyDescriptor(View.prototype, "buffer").get);
const dataViewOffset = uncurry(getOwnPropertyDescriptor(View.prototype, "byteOffset").get);
const dataViewLength = uncurry(getOwnPropertyDescriptor(View.prototype, "byteLength").get);
const mapSize = uncurry(getOwnPropertyDescriptor(Map.prototype, "size").get);
const setSize = uncurry(getOwnPropertyDescriptor(Set.prototype, "size").get);
const dateTime = uncurry(Date.prototype.getTime);
const dateIso = uncurry(Date.prototype.toISOString);
const regExpText = uncurry(RegExp.prototype.toString);
const symbolText = uncurry(Symbol.prototype.toString);
const toHex = uncurry(U8.prototype.toHex);
const toBase64 = uncurry(U8.prototype.toBase64);
const fromHex = U8.fromHex.bind(U8);
const fromBase64 = U8.fromBase64.bind(U8);

const {
  iterator: ITERATOR,
  asyncIterator: ASYNC_ITERATOR,
  toStringTag: TAG,
  toPrimitive: TO_PRIMITIVE,
  species: SPECIES,
} = Symbol;

// Stack frames name functions; a call site would also hand the function itself out.
{
  const before = ErrorClass.prepareStackTrace;
  let sites = [];
  ErrorClass.prepareStackTrace = (_, all) => {
    sites = all;
    return "";
  };
  void new ErrorClass().stack;
  ErrorClass.prepareStackTrace = before;
  if (sites.length > 0) deleteProperty(getPrototypeOf(sites[0]), "getFunction");
}

// A property as the platform's own are: there, but not listed.
const hidden = (value) => ({ value, writable: true, enumerable: false, configurable: true });

function defineHidden(target, members) {
  for (const key of ownKeys(members)) {
    const descriptor = getOwnPropertyDescriptor(members, key);
    descriptor.enumerable = false;
    defineProperty(target, key, descriptor);
  }
  return target;
}

// Web interfaces list their members and carry their name.
function webInterface(Class, name, enumerable = true) {
  const prototype = Class.prototype;
  if (enumerable) {
    for (const key of objectKeysOf(prototype)) {
      if (key !== "constructor") defineProperty(prototype, key, { enumerable: true });
    }
  }
  defineProperty(prototype, TAG, { value: name, configurable: true });
}

function objectKeysOf(object) {
  const names = [];
  for (const key of ownKeys(object)) if (typeof key === "string") push(names, key);
  return names;
}
