// `util.format`: `%s %d %i %f %j %o %O %c %%`, then the rest with spaces between.

const format = (...values) => formatWith({}, values);

function formatWith(options, values) {
  const first = values[0];
  let text = "";
  let used = 0;
  if (typeof first === "string") {
    if (values.length === 1) return first;
    text = first;
    used = 1;
    if (indexOfText(first, "%") >= 0) {
      text = "";
      let from = 0;
      for (let at = 0; at < first.length - 1; at++) {
        if (first[at] !== "%") continue;
        const kind = first[at + 1];
        if (kind === "%") {
          text += sliceText(first, from, at + 1);
          from = at += 2;
          at--;
          continue;
        }
        if (used === values.length || indexOfText("sdifjoOc", kind) < 0) continue;
        text += sliceText(first, from, at) + formatOne(options, kind, values[used++]);
        from = at + 2;
        at++;
      }
      text += sliceText(first, from);
    }
  }
  while (used < values.length) {
    const value = values[used];
    if (used > 0) text += " ";
    text +=
      typeof value === "string" ? value : inspect(value, { ...options, compact: 3, colors: false, depth: options.depth ?? 2 });
    used++;
  }
  return text;
}

function formatOne(options, kind, value) {
  switch (kind) {
    case "s":
      if (typeof value === "number") return is(value, -0) ? "-0" : `${value}`;
      if (typeof value === "bigint") return `${value}n`;
      if (typeof value !== "object" || value === null || !hasBuiltInToString(value)) return StringOf(value);
      return inspect(value, { ...options, depth: 0, colors: false, compact: 3 });
    case "d":
      if (typeof value === "bigint") return `${value}n`;
      return typeof value === "object" && value !== null ? numberLike(value) : numberLike(value);
    case "i":
      if (typeof value === "bigint") return `${value}n`;
      return typeof value === "symbol" ? "NaN" : showPrimitive(INSPECT_DEFAULTS, parseInt(value));
    case "f":
      return typeof value === "symbol" ? "NaN" : showPrimitive(INSPECT_DEFAULTS, parseFloat(value));
    case "j":
      return jsonOrCircular(value);
    case "o":
      return inspect(value, { ...options, showHidden: true, showProxy: true, depth: 4 });
    case "O":
      return inspect(value, options);
    default:
      return "";
  }
}

function numberLike(value) {
  if (typeof value === "symbol") return "NaN";
  return showPrimitive(INSPECT_DEFAULTS, NumberOf(value));
}

function jsonOrCircular(value) {
  try {
    return toJson(value);
  } catch (error) {
    if (error instanceof TypeErrorClass && matches(/circular/i, StringOf(error.message))) return "[Circular]";
    throw error;
  }
}

// Whether `String(value)` would say less than an inspection: its text is that of a built-in class.
function hasBuiltInToString(value) {
  if (typeof value.toString !== "function") return true;
  if (hasOwn(value, "toString")) return false;
  let object = value;
  do object = getPrototypeOf(object);
  while (object !== null && !hasOwn(object, "toString"));
  if (object === null) return true;
  const descriptor = getOwnPropertyDescriptor(object, "constructor");
  return descriptor !== undefined && typeof descriptor.value === "function" && setHas(BUILT_IN, descriptor.value.name);
}

const BUILT_IN = new SetClass();
for (const name of ownKeys(globalThis))
  if (typeof name === "string" && matches(/^[A-Z][A-Za-z0-9]+$/, name)) setAdd(BUILT_IN, name);
