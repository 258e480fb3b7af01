// `util.inspect`: values as Node.js prints them, bounded in depth, items and text, safe with cycles and hostile getters.

const INSPECT_CUSTOM = Symbol.for("nodejs.util.inspect.custom");

const INSPECT_DEFAULTS = {
  __proto__: null,
  showHidden: false,
  depth: 2,
  colors: false,
  customInspect: true,
  showProxy: false,
  maxArrayLength: 100,
  maxStringLength: 10000,
  breakLength: 80,
  compact: 3,
  sorted: false,
  getters: false,
  numericSeparator: false,
};

// Values printed by one call; what is more ends in `...`.
const INSPECT_VALUES = 20000;

// What `depth: null` means; deeper, the stack would end first.
const INSPECT_DEPTH = 64;

function inspect(value, options, depth, colors) {
  const context = assign({ __proto__: null, seen: [], indentation: 0, level: 0, left: INSPECT_VALUES }, INSPECT_DEFAULTS);
  if (typeof options === "object" && options !== null) {
    for (const key of objectKeys(options)) if (key in INSPECT_DEFAULTS || key === "stylize") context[key] = options[key];
  } else {
    if (options !== undefined) context.showHidden = Boolean(options);
    if (depth !== undefined) context.depth = depth;
    if (colors !== undefined) context.colors = colors;
  }
  if (context.maxArrayLength === null) context.maxArrayLength = Infinity;
  if (context.maxStringLength === null) context.maxStringLength = Infinity;
  if (context.depth === null || context.depth > INSPECT_DEPTH) context.depth = INSPECT_DEPTH;
  return show(context, value, 0, true);
}

inspect.custom = INSPECT_CUSTOM;
inspect.defaultOptions = INSPECT_DEFAULTS;

function show(context, value, level, typed) {
  if (typeof value !== "object" && typeof value !== "function") return showPrimitive(context, value);
  if (value === null) return "null";
  if (context.left-- <= 0) return "...";
  const custom = context.customInspect ? customInspection(context, value, level) : undefined;
  if (custom !== undefined) return custom;
  if (arrayHas(context.seen, value)) {
    context.circular ??= new MapClass();
    if (!mapHas(context.circular, value)) mapSet(context.circular, value, mapSize(context.circular) + 1);
    return `[Circular *${mapGet(context.circular, value)}]`;
  }
  return showObject(context, value, level, typed);
}

function arrayHas(array, value) {
  for (let i = 0; i < array.length; i++) if (array[i] === value) return true;
  return false;
}

function customInspection(context, value, level) {
  const custom = value[INSPECT_CUSTOM];
  if (typeof custom !== "function" || custom === inspect) return undefined;
  const depth = context.depth - level;
  const options = { depth, stylize: (text) => `${text}` };
  for (const key of objectKeys(INSPECT_DEFAULTS)) if (key !== "depth") options[key] = context[key];
  const shown = apply(custom, value, [depth, options, inspect]);
  if (shown === value) return undefined;
  if (typeof shown !== "string") return show(context, shown, level, false);
  return replaceBy(/\n/g, shown, `\n${repeat(" ", context.indentation)}`);
}

function showPrimitive(context, value) {
  switch (typeof value) {
    case "string": {
      let trailer = "";
      let text = value;
      if (text.length > context.maxStringLength) {
        const more = text.length - context.maxStringLength;
        text = sliceText(text, 0, context.maxStringLength);
        trailer = `... ${more} more character${more > 1 ? "s" : ""}`;
      }
      if (context.compact !== true && text.length > 16 && text.length > context.breakLength - context.indentation - 4) {
        const lines = splitText(text, /(?<=\n)/);
        for (let i = 0; i < lines.length; i++) lines[i] = quote(lines[i]);
        return join(lines, ` +\n${repeat(" ", context.indentation + 2)}`) + trailer;
      }
      return quote(text) + trailer;
    }
    case "number":
      return is(value, -0) ? "-0" : `${value}`;
    case "bigint":
      return `${value}n`;
    case "symbol":
      return symbolText(value);
    default:
      return `${value}`;
  }
}

// Single quotes unless the text has some and no double ones, or no backticks.
function quote(text) {
  let mark = "'";
  if (indexOfText(text, "'") >= 0) {
    if (indexOfText(text, '"') < 0) mark = '"';
    else if (indexOfText(text, "`") < 0 && indexOfText(text, "${") < 0) mark = "`";
  }
  if (!matches(/[\0-\x1f\x27\x5c\x7f-\x9f\ud800-\udfff]/, text)) return mark + text + mark;
  const escaped = replaceBy(
    /[\0-\x1f\x27\x5c\x7f-\x9f]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g,
    text,
    (char) => {
      if (char === "'") return mark === "'" ? "\\'" : "'";
      const code = charCode(char, 0);
      const short = indexOfText("\b\t\n\x0b\f\r\\", char);
      if (short >= 0) return `\\${"btnvfr\\"[short]}`;
      return code > 255 ? `\\u${numberText(code, 16)}` : `\\x${upper(padStart(numberText(code, 16), 2, "0"))}`;
    },
  );
  return mark + escaped + mark;
}

const KEY_PATTERN = /^[a-zA-Z_][a-zA-Z_0-9]*$/;

function constructorName(value) {
  let object = value;
  let first;
  for (let depth = 0; object !== null && depth < 100; depth++) {
    const descriptor = getOwnPropertyDescriptor(object, "constructor");
    if (
      descriptor !== undefined &&
      typeof descriptor.value === "function" &&
      descriptor.value.name !== "" &&
      isInstance(value, descriptor.value)
    )
      return StringOf(descriptor.value.name);
    object = getPrototypeOf(object);
    first ??= object;
  }
  return first === null || first === undefined ? null : "Object";
}

function isInstance(value, Class) {
  try {
    return value instanceof Class;
  } catch {
    return false;
  }
}

function ownKeysToShow(context, value) {
  const found = [];
  for (const key of ownKeys(value)) {
    if (context.showHidden ? true : isOwnEnumerable(value, key)) push(found, key);
  }
  return found;
}

const isIndexKey = (key) => typeof key === "string" && matches(/^(?:0|[1-9]\d{0,9})$/, key);

const prefix = (name, tag, fallback, size = "") =>
  `${name === null ? `[${fallback}${size}: null prototype]` : `${name}${size}`} ${tag !== "" && name !== tag ? `[${tag}] ` : ""}`;

function showObject(context, value, level, typed) {
  const name = constructorName(value);
  let tag = value[TAG];
  if (typeof tag !== "string" || (tag !== "" && (context.showHidden ? hasOwn : isOwnEnumerable)(value, TAG))) tag = "";
  let keys = ownKeysToShow(context, value);
  const plan = planOf(context, value, name, tag, keys);
  if (plan.text !== undefined && plan.members === undefined) return plan.text;
  keys = plan.keys ?? keys;

  if (level > context.depth) {
    const label = prefix(name, tag, isArray(value) ? "Array" : "Object");
    return `[${sliceText(label, 0, -1)}]`;
  }
  push(context.seen, value);
  context.level = level;
  let output;
  const indentation = context.indentation;
  try {
    output = plan.members ? plan.members(level + 1) : [];
    for (let i = 0; i < keys.length; i++) push(output, showProperty(context, value, keys[i], level + 1, plan.kind));
  } finally {
    context.seen.length--;
    context.indentation = indentation;
  }
  let base = plan.base ?? "";
  const open = plan.open ?? "{";
  if (context.circular && mapHas(context.circular, value)) {
    const mark = `<ref *${mapGet(context.circular, value)}>`;
    if (context.compact !== true) base = base === "" ? mark : `${mark} ${base}`;
    else return layOut(context, output, base, `${mark} ${open}`, plan.close ?? "}", plan.kind, level, value);
  }
  if (context.sorted && plan.kind === "object") output.sort(context.sorted === true ? undefined : context.sorted);
  return layOut(context, output, base, open, plan.close ?? "}", plan.kind, level, value);
}

// How a value of its class is printed: `text` as a whole if it has no members; else brackets, and what stands inside.
function planOf(context, value, name, tag, keys) {
  if (isArray(value)) {
    const label = name !== "Array" || tag !== "" ? prefix(name, tag, "Array", `(${value.length})`) : "";
    const rest = withoutIndices(keys);
    if (value.length === 0 && rest.length === 0) return { text: `${label}[]` };
    return { kind: "array", open: `${label}[`, close: "]", keys: rest, members: (level) => arrayItems(context, value, level) };
  }
  const kind = classOf(value);
  switch (kind) {
    case "Set": {
      const open = `${prefix(name, tag, "Set", `(${setSize(value)})`)}{`;
      if (setSize(value) === 0 && keys.length === 0) return { text: `${open}}` };
      return { kind: "object", open, members: (level) => collection(context, setForEach, value, setSize(value), level, false) };
    }
    case "Map": {
      const open = `${prefix(name, tag, "Map", `(${mapSize(value)})`)}{`;
      if (mapSize(value) === 0 && keys.length === 0) return { text: `${open}}` };
      return { kind: "object", open, members: (level) => collection(context, mapForEach, value, mapSize(value), level, true) };
    }
    case "TypedArray": {
      const size = viewLength(value);
      const open = `${prefix(name, tag, tagOfView(value), `(${size})`)}[`;
      const rest = withoutIndices(keys);
      if (size === 0 && rest.length === 0) return { text: `${open}]` };
      return { kind: "array", open, close: "]", keys: rest, members: () => viewItems(context, value, size) };
    }
    case "ArrayBuffer":
      return { kind: "object", open: `${prefix(name, tag, "ArrayBuffer")}{`, members: () => bufferItems(context, value) };
    case "DataView":
      return {
        kind: "object",
        open: `${prefix(name, tag, "DataView")}{`,
        members: (level) => [
          `byteLength: ${dataViewLength(value)}`,
          `byteOffset: ${dataViewOffset(value)}`,
          `buffer: ${indented(context, () => show(context, dataViewBuffer(value), level))}`,
        ],
      };
    case "Promise":
      return { kind: "object", open: `${prefix(name, tag, "Promise")}{`, members: () => ["<state unknown>"] };
    case "WeakSet":
    case "WeakMap":
      return { kind: "object", open: `${prefix(name, tag, kind)}{`, members: () => ["<items unknown>"] };
    case "Arguments":
      return {
        kind: "array",
        open: "[Arguments] [",
        close: "]",
        keys: withoutIndices(keys),
        members: (level) => arrayItems(context, value, level),
      };
  }
  const base = baseOf(context, value, kind, name, tag, keys);
  if (base !== undefined) {
    if (keys.length === 0) return { text: base };
    return { kind: "object", base, keys: kind === "String" ? withoutIndices(keys) : keys, members: () => [], open: "{" };
  }
  const label = name === "Object" && tag === "" ? "" : prefix(name, tag, "Object");
  if (keys.length === 0) return { text: `${label}{}` };
  return { kind: "object", open: `${label}{`, members: () => [] };
}

function withoutIndices(keys) {
  const rest = [];
  for (let i = 0; i < keys.length; i++) if (!isIndexKey(keys[i])) push(rest, keys[i]);
  return rest;
}

// What a value really is, whatever it says.
function classOf(value) {
  if (typeof value === "function") return "Function";
  if (isView(value)) return tagOfView(value) === undefined ? "DataView" : "TypedArray";
  for (const kind of PROBES) {
    try {
      kind[1](value);
      return kind[0];
    } catch {
      // Not of this class.
    }
  }
  if (isError(value)) return "Error";
  const tag = tagText(value);
  if (tag === "[object Arguments]") return "Arguments";
  if (value instanceof PromiseClass) return "Promise";
  if (value instanceof WeakSet) return "WeakSet";
  if (value instanceof WeakMap) return "WeakMap";
  return "Object";
}

const sourceOf = uncurry(getOwnPropertyDescriptor(RegExp.prototype, "flags").get);
const regExpSource = uncurry(getOwnPropertyDescriptor(RegExp.prototype, "source").get);
const booleanValue = uncurry(Boolean.prototype.valueOf);
const numberValue = uncurry(Number.prototype.valueOf);
const textValue = uncurry(String.prototype.valueOf);
const bigValue = uncurry(BigInt.prototype.valueOf);
const symbolValue = uncurry(Symbol.prototype.valueOf);
const isRegExp = (value) => value !== RegExpClass.prototype && typeof regExpSource(value) === "string";

const PROBES = [
  ["Map", mapSize],
  ["Set", setSize],
  ["Date", dateTime],
  [
    "RegExp",
    (value) => {
      if (!isRegExp(value)) throw 0;
    },
  ],
  ["ArrayBuffer", bufferLength],
  ["Boolean", booleanValue],
  ["Number", numberValue],
  ["String", textValue],
  ["BigInt", bigValue],
  ["Symbol", symbolValue],
];

const isErrorNative = ErrorClass.isError;

function isError(value) {
  if (typeof value !== "object" || value === null) return false;
  return (
    (isErrorNative !== undefined && isErrorNative(value)) || value instanceof ErrorClass || tagText(value) === "[object Error]"
  );
}

function baseOf(context, value, kind, name, tag, keys) {
  switch (kind) {
    case "Function":
      return functionBase(value, name, tag);
    case "RegExp": {
      const label = prefix(name, tag, "RegExp");
      return label === "RegExp " ? regExpText(value) : `${label}${regExpText(value)}`;
    }
    case "Date": {
      const text = isNaNumber(dateTime(value)) ? "Invalid Date" : dateIso(value);
      const label = prefix(name, tag, "Date");
      return label === "Date " ? text : `${label}${text}`;
    }
    case "Error":
      return errorBase(context, value, name, tag, keys);
    case "Boolean":
    case "Number":
    case "BigInt":
    case "Symbol":
    case "String": {
      const primitive = apply(value.valueOf === undefined ? ObjectPrototype.valueOf : primitiveOf(kind), undefined, [value]);
      let text = `[${kind}`;
      if (kind !== name) text += name === null ? " (null prototype)" : ` (${name})`;
      text += `: ${showPrimitive({ ...INSPECT_DEFAULTS, indentation: 0 }, primitive)}]`;
      if (tag !== "" && tag !== name) text += ` [${tag}]`;
      if (kind === "String") {
        const rest = withoutIndices(keys);
        keys.length = 0;
        for (let i = 0; i < rest.length; i++) push(keys, rest[i]);
      }
      return text;
    }
  }
  return undefined;
}

const primitiveOf = (kind) =>
  kind === "Boolean"
    ? booleanValue
    : kind === "Number"
      ? numberValue
      : kind === "String"
        ? textValue
        : kind === "BigInt"
          ? bigValue
          : symbolValue;

// A class cannot be told by its source, which compiled steps do not carry.
function isClass(value) {
  const prototype = getOwnPropertyDescriptor(value, "prototype");
  return prototype !== undefined && prototype.writable === false && !setHas(BUILT_IN_CLASSES, value);
}

const BUILT_IN_CLASSES = new SetClass();
for (const name of ownKeys(globalThis)) if (typeof globalThis[name] === "function") setAdd(BUILT_IN_CLASSES, globalThis[name]);

function functionBase(value, name, tag) {
  if (isClass(value)) {
    let text = `[class ${hasOwn(value, "name") && value.name ? value.name : "(anonymous)"}`;
    if (name !== "Function" && name !== null) text += ` [${name}]`;
    if (tag !== "" && name !== tag) text += ` [${tag}]`;
    const parent = getPrototypeOf(value);
    if (parent === null) text += " extends [null prototype]";
    else if (parent.name) text += ` extends ${parent.name}`;
    return `${text}]`;
  }
  let type = "Function";
  const own = tagText(value);
  if (own === "[object AsyncFunction]") type = "AsyncFunction";
  else if (own === "[object GeneratorFunction]") type = "GeneratorFunction";
  else if (own === "[object AsyncGeneratorFunction]") type = "AsyncGeneratorFunction";
  let text = `[${type}`;
  if (name === null) text += " (null prototype)";
  text += value.name === "" || typeof value.name !== "string" ? " (anonymous)" : `: ${value.name}`;
  text += "]";
  if (name !== type && name !== null && name !== "Function") text += ` ${name}`;
  if (tag !== "" && name !== tag && tag !== type) text += ` [${tag}]`;
  return text;
}

// The frames of a stack that are not the platform's own.
function userFrames(stack) {
  const kept = [];
  const lines = splitText(stack, "\n");
  for (let i = 0; i < lines.length; i++) {
    const line = lines[i];
    if (line === "" || indexOfText(line, PLATFORM_SCRIPT) >= 0 || matches(/ \((?:native|missing)\)$/, line)) continue;
    push(kept, line);
  }
  return kept;
}

const PLATFORM_SCRIPT = "ap:platform";

// `Name: message` and the frames, as the stacks of other engines begin; then `[cause]` and own properties.
function errorBase(context, error, name, tag, keys) {
  const label = error.name === undefined ? "Error" : StringOf(error.name);
  const message = error.message === undefined ? "" : StringOf(error.message);
  const own = typeof error.stack === "string" ? error.stack : "";
  let head = message === "" ? label : `${label}: ${message}`;
  if (
    hasOwn(error, "code") &&
    typeof error.code === "string" &&
    sliceText(error.code, 0, 4) === "ERR_" &&
    indexOfText(label, error.code) < 0 &&
    label !== "AssertionError"
  )
    head = `${label} [${error.code}]${sliceText(head, label.length)}`;
  if (name !== null && name !== label && indexOfText(label, name) < 0 && name !== "Object" && label === "Error")
    head = `${name}${sliceText(head, label.length)}`;
  removeKey(keys, "name", (value) => indexOfText(head, StringOf(value)) >= 0, error);
  removeKey(keys, "message", (value) => indexOfText(head, StringOf(value)) >= 0, error);
  removeKey(keys, "stack", () => true, error);
  if (hasOwn(error, "cause") && !arrayHas(keys, "cause")) push(keys, "cause");
  if (isArray(error.errors) && hasOwn(error, "errors") && !arrayHas(keys, "errors")) push(keys, "errors");
  // A stack that the step wrote itself stands as it is.
  if (own !== "" && sliceText(own, 0, 7) !== "    at ") head = indexOfText(own, "\n    at ") < 0 ? `[${own}]` : own;
  else {
    const frames = userFrames(own);
    head = frames.length === 0 ? `[${head}]` : `${head}\n${join(frames, "\n")}`;
  }
  if (context.indentation > 0) head = replaceBy(/\n/g, head, `\n${repeat(" ", context.indentation)}`);
  return head;
}

function removeKey(keys, name, applies, object) {
  for (let i = 0; i < keys.length; i++) {
    if (keys[i] === name && applies(object[name])) {
      splice(keys, i, 1);
      return;
    }
  }
}

function indented(context, run, by = 2) {
  context.indentation += by;
  try {
    return run();
  } finally {
    context.indentation -= by;
  }
}

const remaining = (count) => `... ${count} more item${count > 1 ? "s" : ""}`;

function arrayItems(context, value, level) {
  const output = [];
  const length = value.length;
  const shown = min(max(0, context.maxArrayLength), length);
  let at = 0;
  let groups = 0;
  while (at < length && groups < shown) {
    if (hasOwn(value, at)) {
      push(output, showProperty(context, value, at, level, "item"));
      at++;
    } else {
      const start = at;
      // A hole may be as wide as the array is long.
      const next = nextIndex(value, at, length);
      at = next;
      push(output, `<${at - start} empty item${at - start > 1 ? "s" : ""}>`);
    }
    groups++;
  }
  if (at < length) push(output, remaining(length - at));
  return output;
}

function nextIndex(value, from, length) {
  for (let i = from, tried = 0; i < length; i++, tried++) {
    if (hasOwn(value, i)) return i;
    if (tried === 1000) {
      for (const key of ownKeys(value)) if (isIndexKey(key) && +key > i) return +key;
      return length;
    }
  }
  return length;
}

function viewItems(context, value, size) {
  const shown = min(max(0, context.maxArrayLength), size);
  const output = [];
  for (let i = 0; i < shown; i++) push(output, showPrimitive(context, value[i]));
  if (size > shown) push(output, remaining(size - shown));
  return output;
}

function bufferItems(context, value) {
  const length = bufferLength(value);
  const shown = min(max(0, context.maxArrayLength), length);
  let text = replaceBy(/(.{2})(?=.)/g, toHex(new U8(value, 0, shown)), "$1 ");
  if (length > shown) text += ` ... ${length - shown} more byte${length - shown > 1 ? "s" : ""}`;
  return [`[Uint8Contents]: <${text}>`, `byteLength: ${length}`];
}

function collection(context, forEach, value, size, level, pairs) {
  const output = [];
  const shown = min(max(0, context.maxArrayLength), size);
  context.indentation += 2;
  let i = 0;
  forEach(value, (item, key) => {
    if (i++ >= shown) return;
    const text = show(context, item, level);
    push(output, pairs ? `${show(context, key, level)} => ${text}` : text);
  });
  context.indentation -= 2;
  if (size > shown) push(output, remaining(size - shown));
  return output;
}

function showProperty(context, object, key, level, kind) {
  const descriptor = getOwnPropertyDescriptor(object, key) ?? { value: object[key], enumerable: true };
  let text;
  if (descriptor.value !== undefined || hasOwn(descriptor, "value")) {
    const by = kind === "object" && context.compact === true ? 3 : 2;
    text = indented(context, () => show(context, descriptor.value, level), by);
  } else if (descriptor.get !== undefined) {
    text = descriptor.set !== undefined ? "[Getter/Setter]" : "[Getter]";
    if (context.getters === true) text = showGetter(context, object, descriptor, text, level);
  } else {
    text = descriptor.set !== undefined ? "[Setter]" : "undefined";
  }
  if (kind === "item") return text;
  let name;
  if (typeof key === "symbol") name = `[${symbolText(key)}]`;
  else if (key === "__proto__") name = "['__proto__']";
  else if (!descriptor.enumerable) name = `[${key}]`;
  else name = matches(KEY_PATTERN, key) ? key : quote(key);
  return `${name}: ${text}`;
}

function showGetter(context, object, descriptor, label, level) {
  try {
    const value = apply(descriptor.get, object, []);
    return `${sliceText(label, 0, -1)}: ${indented(context, () => show(context, value, level))}]`;
  } catch (error) {
    return `${sliceText(label, 0, -1)}: <Inspection threw (${error?.message})>]`;
  }
}
