// Errors: of the host, of Node's kind, and of the Web's.

// What a host call answered: bytes, or the name and message of an error.
function hostReply(reply) {
  if (typeof reply === "string") throw hostError(reply);
  return reply;
}

// `call` is `[operation, ...arguments]`; an array literal, so that no iterator of the step's is asked.
function sync(call) {
  return hostReply(apply(hostCall, undefined, call));
}

// The host writes `Name\nmessage`, or `code:ERR_X\nmessage` for an error of Node's kind.
function hostError(text) {
  const end = indexOfText(text, "\n");
  const name = end < 0 ? "Error" : sliceText(text, 0, end);
  const message = sliceText(text, end + 1);
  if (sliceText(name, 0, 5) === "code:") {
    const code = sliceText(name, 5);
    return nodeError(CODE_CLASSES[code] ?? ErrorClass, code, message);
  }
  switch (name) {
    case "Error":
      return new ErrorClass(message);
    case "TypeError":
      return new TypeErrorClass(message);
    case "RangeError":
      return new RangeErrorClass(message);
    default:
      return new DOMExceptionClass(message, name);
  }
}

const CODE_CLASSES = {
  __proto__: null,
  ERR_INVALID_ARG_TYPE: TypeErrorClass,
  ERR_INVALID_ARG_VALUE: TypeErrorClass,
  ERR_OUT_OF_RANGE: RangeErrorClass,
  ERR_CRYPTO_INVALID_KEYLEN: RangeErrorClass,
  ERR_CRYPTO_INVALID_IV: TypeErrorClass,
  ERR_CRYPTO_INVALID_AUTH_TAG: TypeErrorClass,
  ERR_CRYPTO_TIMING_SAFE_EQUAL_LENGTH: RangeErrorClass,
  ERR_INVALID_URL: TypeErrorClass,
};

function nodeError(Class, code, message) {
  const error = new Class(message);
  error.code = code;
  return error;
}

const domError = (name, message) => new DOMExceptionClass(message, name);

// `The "x" argument must be of type string. Received …`; `expected` is such as `of type string` or `an instance of Map`.
function argumentError(name, expected, actual) {
  const what = indexOfText(name, ".") < 0 ? "argument" : "property";
  const subject = name === "first argument" ? "first argument" : `"${name}" ${what}`;
  const message = `The ${subject} must be ${expected}.${received(actual)}`;
  return nodeError(TypeErrorClass, "ERR_INVALID_ARG_TYPE", message);
}

function received(value) {
  if (value === undefined || value === null) return ` Received ${value}`;
  if (typeof value === "function") return ` Received function ${value.name}`;
  if (typeof value === "object") {
    if (value.constructor?.name) return ` Received an instance of ${value.constructor.name}`;
    return ` Received ${inspect(value, { depth: -1 })}`;
  }
  let text = inspect(value, { colors: false });
  if (text.length > 28) text = `${sliceText(text, 0, 25)}...`;
  return ` Received type ${typeof value} (${text})`;
}

function rangeError(name, range, actual) {
  const message = `The value of "${name}" is out of range. It must be ${range}. Received ${grouped(actual)}`;
  return nodeError(RangeErrorClass, "ERR_OUT_OF_RANGE", message);
}

// Large numbers in messages have underscores between thousands.
function grouped(value) {
  const isBig = typeof value === "bigint";
  if (!isBig && !(isInteger(value) && abs(value) > 2 ** 32)) return inspect(value);
  if (isBig && value <= 2n ** 32n && value >= -(2n ** 32n)) return `${value}n`;
  const text = replaceBy(/\B(?=(\d{3})+$)/g, StringOf(value), "_");
  return isBig ? `${text}n` : text;
}

const valueError = (name, value, reason = "is invalid") =>
  nodeError(
    TypeErrorClass,
    "ERR_INVALID_ARG_VALUE",
    `The ${indexOfText(name, ".") < 0 ? "argument" : "property"} '${name}' ${reason}. Received ${inspect(value)}`,
  );

function checkString(value, name) {
  if (typeof value !== "string") throw argumentError(name, "of type string", value);
}

function checkFunction(value, name) {
  if (typeof value !== "function") throw argumentError(name, "of type function", value);
}

function checkInteger(value, name, least = NumberOf.MIN_SAFE_INTEGER, most = NumberOf.MAX_SAFE_INTEGER) {
  if (typeof value !== "number") throw argumentError(name, "of type number", value);
  if (!isInteger(value)) throw rangeError(name, "an integer", value);
  if (value < least || value > most) throw rangeError(name, `>= ${least} && <= ${most}`, value);
}

// A class of the Web's whose objects a step may not make.
const illegal = () => nodeError(TypeErrorClass, "ERR_ILLEGAL_CONSTRUCTOR", "Illegal constructor");
