// Text and bytes, and what lies between them.

const utf8Bytes = (text) => new U8(hostEncode(text));

// Malformed sequences become U+FFFD; a byte order mark stays.
const utf8Text = (view) => hostDecode(view, false, true);

const isAnyBuffer = (value) => tagOf(value) === "[object ArrayBuffer]" && isBufferObject(value);

function isBufferObject(value) {
  try {
    bufferLength(value);
    return true;
  } catch {
    return false;
  }
}

function tagOf(value) {
  return typeof value === "object" && value !== null ? tagText(value) : "";
}

// Bytes of a view or buffer without a copy, `undefined` for anything else.
function bytesOf(value) {
  if (isView(value)) {
    const tag = tagOfView(value);
    if (tag === undefined) return new U8(dataViewBuffer(value), dataViewOffset(value), dataViewLength(value));
    if (tag === "Uint8Array") return value;
    return new U8(viewBuffer(value), viewOffset(value), viewBytes(value));
  }
  if (typeof value === "object" && value !== null && isBufferObject(value)) return new U8(value);
  return undefined;
}

// The same, as Web interfaces ask for it.
function bufferSource(value, name = "value") {
  const bytes = bytesOf(value);
  if (!bytes) throw new TypeErrorClass(`${name} must be an ArrayBuffer, a typed array or a DataView`);
  return bytes;
}

function copyOf(bytes) {
  const copy = new U8(viewBytes(bytes));
  copyInto(copy, bytes);
  return copy;
}

const EMPTY = new U8(0);

function concatBytes(parts) {
  if (parts.length === 1) return parts[0];
  let length = 0;
  for (let i = 0; i < parts.length; i++) length += viewBytes(parts[i]);
  const all = new U8(length);
  let at = 0;
  for (let i = 0; i < parts.length; i++) {
    copyInto(all, parts[i], at);
    at += viewBytes(parts[i]);
  }
  return all;
}

// Text whose characters are the bytes, `mask` 127 for ASCII.
function latin1Text(bytes, mask = 255) {
  const parts = [];
  const length = viewLength(bytes);
  for (let at = 0; at < length; at += 4096) {
    const codes = [];
    const end = min(at + 4096, length);
    for (let i = at; i < end; i++) codes[i - at] = bytes[i] & mask;
    push(parts, apply(fromCharCode, undefined, codes));
  }
  return parts.length === 1 ? parts[0] : join(parts, "");
}

function latin1Bytes(text) {
  const bytes = new U8(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = charCode(text, i);
  return bytes;
}

function utf16Text(bytes, bigEndian = false) {
  const parts = [];
  const length = viewLength(bytes) & ~1;
  const high = bigEndian ? 0 : 1;
  for (let at = 0; at < length; at += 8192) {
    const codes = [];
    const end = min(at + 8192, length);
    for (let i = at; i < end; i += 2) push(codes, bytes[i + 1 - high] | (bytes[i + high] << 8));
    push(parts, apply(fromCharCode, undefined, codes));
  }
  return parts.length === 1 ? parts[0] : join(parts, "");
}

function utf16Bytes(text) {
  const bytes = new U8(text.length * 2);
  for (let i = 0; i < text.length; i++) {
    const code = charCode(text, i);
    bytes[2 * i] = code;
    bytes[2 * i + 1] = code >> 8;
  }
  return bytes;
}

// Up to the first pair that is not hexadecimal, as Node reads it.
function hexBytes(text) {
  const even = text.length % 2 === 0 ? text : sliceText(text, 0, -1);
  try {
    return fromHex(even);
  } catch {
    return fromHex(exec(/^(?:[0-9a-fA-F]{2})*/, even)[0]);
  }
}

// Either alphabet, with or without padding, strangers skipped, as Node reads it.
function base64Bytes(text) {
  const bad = indexOfText(text, "-") >= 0 || indexOfText(text, "_") >= 0;
  if (!bad) {
    try {
      return fromBase64(text);
    } catch {
      // Read with less care below.
    }
  }
  const end = indexOfText(text, "=");
  let clean = end < 0 ? text : sliceText(text, 0, end);
  clean = replaceBy(/-/g, replaceBy(/_/g, clean, "/"), "+");
  clean = replaceBy(/[^A-Za-z0-9+/]+/g, clean, "");
  if (clean.length % 4 === 1) clean = sliceText(clean, 0, -1);
  return fromBase64(clean);
}

const base64Text = (bytes) => toBase64(bytes);
const base64urlText = (bytes) => toBase64(bytes, { alphabet: "base64url", omitPadding: true });

// Node's names of encodings; `undefined` for any other.
function encodingName(name) {
  if (name === undefined || name === null || name === "") return "utf8";
  return ENCODINGS[name] ?? ENCODINGS[lower(StringOf(name))];
}

const ENCODINGS = {
  __proto__: null,
  utf8: "utf8",
  "utf-8": "utf8",
  hex: "hex",
  base64: "base64",
  base64url: "base64url",
  latin1: "latin1",
  binary: "latin1",
  ascii: "ascii",
  ucs2: "utf16le",
  "ucs-2": "utf16le",
  utf16le: "utf16le",
  "utf-16le": "utf16le",
};

function knownEncoding(name) {
  const encoding = encodingName(name);
  if (!encoding) throw nodeError(TypeErrorClass, "ERR_UNKNOWN_ENCODING", `Unknown encoding: ${StringOf(name)}`);
  return encoding;
}

// A placeholder of a connection's secret, or the handle of a key made from one: worthless text that the host knows.
const isHandle = (text) => text.length === 50 && matches(/^apcred_[\w-]{43}$/, text);

function isHandleBytes(bytes) {
  return viewBytes(bytes) === 50 && bytes[0] === 97 && bytes[6] === 95 && isHandle(latin1Text(bytes));
}

// Bytes of a text in one of Node's encodings. A placeholder's bytes are those of a handle of the decoded secret.
function encodeText(text, encoding) {
  if (encoding !== "utf8" && isHandle(text)) {
    const handle = sync([KEY, text, encoding]);
    if (bufferLength(handle) > 0) return new U8(handle);
  }
  switch (encoding) {
    case "utf8":
      return utf8Bytes(text);
    case "hex":
      return hexBytes(text);
    case "base64":
    case "base64url":
      return base64Bytes(text);
    case "utf16le":
      return utf16Bytes(text);
    default:
      return latin1Bytes(text);
  }
}

function decodeText(bytes, encoding) {
  switch (encoding) {
    case "utf8":
      return utf8Text(bytes);
    case "hex":
      return toHex(bytes);
    case "base64":
      return base64Text(bytes);
    case "base64url":
      return base64urlText(bytes);
    case "utf16le":
      return utf16Text(bytes);
    case "ascii":
      return latin1Text(bytes, 127);
    default:
      return latin1Text(bytes);
  }
}

// The host's operations; `src/sandbox` has the other side.
const CANCEL = 1,
  RANDOM = 2,
  HASH = 3,
  HMAC = 4,
  CIPHER = 5,
  KDF = 6,
  KEY = 7,
  EQUAL = 8,
  URL_PARSE = 9,
  URL_SET = 10;
const TIMER = 32,
  FETCH = 33,
  STORE_GET = 40,
  STORE_PUT = 41,
  STORE_DELETE = 42;
