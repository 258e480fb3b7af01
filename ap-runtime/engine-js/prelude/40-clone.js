// `structuredClone`, for what a step can have.

function structuredClone(value, options) {
  if (arguments.length === 0) throw nodeError(TypeErrorClass, "ERR_MISSING_ARGS", 'The "value" argument must be specified');
  const seen = new MapClass();
  const transfer = options?.transfer === undefined ? [] : [...options.transfer];
  for (const buffer of transfer) if (!isBufferObject(buffer)) throw domError("DataCloneError", "Value not transferable");
  const copy = cloneValue(value, seen);
  for (const buffer of transfer) buffer.transfer?.();
  return copy;
}

function notCloneable(value) {
  let what = "#<Object>";
  if (typeof value === "symbol") what = symbolText(value);
  else if (typeof value === "function") what = value.name ? `function ${value.name}` : "function";
  else what = `#<${constructorName(value) ?? "Object"}>`;
  return domError("DataCloneError", `${what} could not be cloned.`);
}

const ERROR_CLASSES = { __proto__: null, EvalError, RangeError, ReferenceError, SyntaxError, TypeError, URIError };

function cloneValue(value, seen) {
  if (typeof value === "symbol" || typeof value === "function") throw notCloneable(value);
  if (typeof value !== "object" || value === null) return value;
  const known = mapGet(seen, value);
  if (known !== undefined) return known;
  const remember = (copy) => {
    mapSet(seen, value, copy);
    return copy;
  };
  if (isArray(value)) {
    const copy = remember([]);
    copy.length = value.length;
    return cloneMembers(value, copy, seen);
  }
  switch (classOf(value)) {
    case "Map": {
      const copy = remember(new MapClass());
      const pairs = [];
      mapForEach(value, (item, key) => push(pairs, [key, item]));
      for (let i = 0; i < pairs.length; i++) mapSet(copy, cloneValue(pairs[i][0], seen), cloneValue(pairs[i][1], seen));
      return copy;
    }
    case "Set": {
      const copy = remember(new SetClass());
      const items = [];
      setForEach(value, (item) => push(items, item));
      for (let i = 0; i < items.length; i++) setAdd(copy, cloneValue(items[i], seen));
      return copy;
    }
    case "Date":
      return remember(new DateClass(dateTime(value)));
    case "RegExp":
      return remember(new RegExpClass(regExpSource(value), sourceOf(value)));
    case "ArrayBuffer":
      return remember(sliceBuffer(value, 0));
    case "DataView": {
      const buffer = cloneValue(dataViewBuffer(value), seen);
      return remember(new View(buffer, dataViewOffset(value), dataViewLength(value)));
    }
    case "TypedArray": {
      const buffer = cloneValue(viewBuffer(value), seen);
      const Class = VIEW_CLASSES[tagOfView(value)];
      return remember(new Class(buffer, viewOffset(value), viewLength(value)));
    }
    case "Boolean":
    case "Number":
    case "String":
    case "BigInt":
      return remember(Object(primitiveOf(classOf(value))(value)));
    case "Symbol":
    case "Promise":
    case "WeakMap":
    case "WeakSet":
      throw notCloneable(value);
    case "Error":
      return cloneError(value, seen, remember);
  }
  if (value instanceof WeakRef) throw notCloneable(value);
  return cloneMembers(value, remember({}), seen);
}

function cloneMembers(value, copy, seen) {
  for (const key of objectKeys(value)) {
    const member = cloneValue(value[key], seen);
    if (key === "__proto__") defineProperty(copy, key, { value: member, writable: true, enumerable: true, configurable: true });
    else copy[key] = member;
  }
  return copy;
}

function cloneError(error, seen, remember) {
  if (error instanceof DOMExceptionClass) return remember(new DOMExceptionClass(error.message, error.name));
  const Class = ERROR_CLASSES[error.name] ?? ErrorClass;
  const copy = remember(hasOwn(error, "message") ? new Class(StringOf(error.message)) : new Class());
  if (typeof error.stack === "string") defineProperty(copy, "stack", hidden(error.stack));
  if (hasOwn(error, "cause")) defineProperty(copy, "cause", hidden(cloneValue(error.cause, seen)));
  return copy;
}

const VIEW_CLASSES = { __proto__: null };
for (const Class of [
  Int8Array,
  Uint8Array,
  Uint8ClampedArray,
  Int16Array,
  Uint16Array,
  Int32Array,
  Uint32Array,
  Float32Array,
  Float64Array,
  BigInt64Array,
  BigUint64Array,
  globalThis.Float16Array,
])
  if (Class) VIEW_CLASSES[Class.name] = Class;
