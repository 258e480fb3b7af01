// Node's `Buffer`. Unlike there, small ones share no pool: `buffer.buffer` is theirs alone.

const MAX_BUFFER = 2 ** 31 - 1;

class FastBuffer extends U8 {}

// `Buffer(…)` and `new Buffer(…)` without a method are deprecated, and work.
function Buffer(value, encodingOrOffset, length) {
  if (typeof value === "number") {
    if (typeof encodingOrOffset === "string") throw argumentError("string", "of type string", value);
    return Buffer.alloc(value);
  }
  return Buffer.from(value, encodingOrOffset, length);
}

setPrototypeOf(Buffer, U8);
Buffer.prototype = FastBuffer.prototype;
defineProperty(FastBuffer.prototype, "constructor", hidden(Buffer));
defineProperty(Buffer, SPECIES, { configurable: true, get: () => FastBuffer });

// A Buffer over the same memory.
const asBuffer = (bytes) => new FastBuffer(viewBuffer(bytes), viewOffset(bytes), viewBytes(bytes));

function checkSize(size) {
  if (typeof size !== "number") throw argumentError("size", "of type number", size);
  if (!(size >= 0 && size <= MAX_BUFFER)) throw rangeError("size", `>= 0 && <= ${MAX_BUFFER}`, size);
}

const isBuffer = (value) => value instanceof Buffer;

defineHidden(Buffer, {
  poolSize: 8192,

  from(value, encodingOrOffset, length) {
    if (typeof value === "string")
      return asBuffer(encodeText(value, knownEncoding(typeof encodingOrOffset === "string" ? encodingOrOffset : undefined)));
    if (typeof value === "object" && value !== null) {
      if (isBufferObject(value)) return bufferOver(value, encodingOrOffset, length);
      const valueOf = value.valueOf && value.valueOf();
      if (
        valueOf !== null &&
        valueOf !== undefined &&
        valueOf !== value &&
        (typeof valueOf === "string" || typeof valueOf === "object")
      )
        return Buffer.from(valueOf, encodingOrOffset, length);
      const copied = bufferOfObject(value);
      if (copied) return copied;
      if (typeof value[TO_PRIMITIVE] === "function") {
        const primitive = value[TO_PRIMITIVE]("string");
        if (typeof primitive === "string") return Buffer.from(primitive, encodingOrOffset);
      }
    }
    throw argumentError(
      "first argument",
      "of type string or an instance of Buffer, ArrayBuffer, or Array or an Array-like Object",
      value,
    );
  },

  alloc(size, fill, encoding) {
    checkSize(size);
    const buffer = new FastBuffer(size);
    if (fill !== undefined && fill !== 0 && size > 0) buffer.fill(fill, encoding);
    return buffer;
  },

  allocUnsafe(size) {
    checkSize(size);
    return new FastBuffer(size);
  },

  allocUnsafeSlow(size) {
    checkSize(size);
    return new FastBuffer(size);
  },

  isBuffer,

  isEncoding: (name) => typeof name === "string" && name.length !== 0 && encodingName(name) !== undefined,

  byteLength(value, encoding) {
    if (typeof value !== "string") {
      const bytes = bytesOf(value);
      if (bytes) return viewBytes(bytes);
      throw argumentError("string", "of type string or an instance of Buffer or ArrayBuffer", value);
    }
    switch (encodingName(encoding) ?? "utf8") {
      case "utf16le":
        return value.length * 2;
      case "latin1":
      case "ascii":
        return value.length;
      case "hex":
        return value.length >>> 1;
      case "base64":
      case "base64url": {
        let length = value.length;
        if (charCode(value, length - 1) === 61) length--;
        if (length > 1 && charCode(value, length - 1) === 61) length--;
        return (length * 3) >>> 2;
      }
      default:
        return bufferLength(hostEncode(value));
    }
  },

  concat(list, length) {
    if (!isArray(list)) throw argumentError("list", "an instance of Array", list);
    let total = 0;
    for (let i = 0; i < list.length; i++) {
      if (!isView(list[i])) throw argumentError(`list[${i}]`, "an instance of Buffer or Uint8Array", list[i]);
      total += viewBytes(bytesOf(list[i]));
    }
    if (length !== undefined) {
      checkInteger(length, "length", 0);
      total = length;
    }
    const all = new FastBuffer(total);
    let at = 0;
    for (let i = 0; i < list.length && at < total; i++) {
      let bytes = bytesOf(list[i]);
      if (at + viewBytes(bytes) > total) bytes = bytes.subarray(0, total - at);
      copyInto(all, bytes, at);
      at += viewBytes(bytes);
    }
    return all;
  },

  compare(left, right) {
    return compareBytes(needBytes(left, "buf1"), needBytes(right, "buf2"));
  },

  copyBytesFrom(view, offset = 0, length) {
    if (tagOfView(view) === undefined) throw argumentError("view", "an instance of TypedArray", view);
    checkInteger(offset, "offset", 0);
    if (length !== undefined) checkInteger(length, "length", 0);
    return asBuffer(copyOf(bytesOf(view.subarray(offset, length === undefined ? undefined : offset + length))));
  },

  of(...items) {
    const buffer = new FastBuffer(items.length);
    for (let i = 0; i < items.length; i++) buffer[i] = items[i];
    return buffer;
  },
});

function needBytes(value, name) {
  if (tagOfView(value) !== "Uint8Array") throw argumentError(name, "an instance of Buffer or Uint8Array", value);
  return value;
}

function bufferOver(buffer, offset, length) {
  const from = offset === undefined ? 0 : +offset || 0;
  const room = bufferLength(buffer) - from;
  if (room < 0) throw nodeError(RangeErrorClass, "ERR_BUFFER_OUT_OF_BOUNDS", '"offset" is outside of buffer bounds');
  let size = room;
  if (length !== undefined) {
    size = max(+length || 0, 0);
    if (size > room) throw nodeError(RangeErrorClass, "ERR_BUFFER_OUT_OF_BOUNDS", '"length" is outside of buffer bounds');
  }
  return new FastBuffer(buffer, from, size);
}

// A copy of an array, a view's elements, or what `toJSON` of a Buffer gave.
function bufferOfObject(value) {
  if (value.length !== undefined || isView(value)) {
    if (typeof value.length !== "number") return new FastBuffer(0);
    const length = max(0, trunc(value.length) || 0);
    checkSize(length);
    const buffer = new FastBuffer(length);
    for (let i = 0; i < length; i++) buffer[i] = value[i];
    return buffer;
  }
  if (value.type === "Buffer" && isArray(value.data)) return bufferOfObject(value.data);
  return undefined;
}

function compareBytes(left, right) {
  const length = min(viewLength(left), viewLength(right));
  for (let i = 0; i < length; i++) if (left[i] !== right[i]) return left[i] < right[i] ? -1 : 1;
  return viewLength(left) === viewLength(right) ? 0 : viewLength(left) < viewLength(right) ? -1 : 1;
}

// Like `slice` of arrays: not a number is 0, negative ones count from the end.
function bound(value, length, fallback) {
  if (value === undefined) return fallback;
  let at = trunc(+value) || 0;
  if (at < 0) at += length;
  return at < 0 ? 0 : at > length ? length : at;
}

// Encodings whose name is a method's ending, such as `hexSlice`.
const latinNames = {
  __proto__: null,
  hex: "hex",
  utf8: "utf8",
  ascii: "ascii",
  latin1: "latin1",
  base64: "base64",
  base64url: "base64url",
  ucs2: "utf16le",
};

defineHidden(FastBuffer.prototype, {
  toString(encoding, start, end) {
    const length = viewLength(this);
    if (arguments.length === 0) return length === 0 ? "" : utf8Text(this);
    let from = start === undefined || start <= 0 ? 0 : start >= length ? length : trunc(start) || 0;
    const to = end === undefined || end > length ? length : trunc(+end) || 0;
    if (to <= from) return "";
    const name = encoding === undefined ? "utf8" : knownEncoding(encoding);
    return decodeText(from === 0 && to === length ? this : new U8(viewBuffer(this), viewOffset(this) + from, to - from), name);
  },

  toLocaleString(encoding, start, end) {
    return this.toString(encoding, start, end);
  },

  toJSON() {
    const data = [];
    for (let i = 0; i < this.length; i++) data[i] = this[i];
    return { type: "Buffer", data };
  },

  equals(other) {
    if (tagOfView(other) !== "Uint8Array") throw argumentError("otherBuffer", "an instance of Buffer or Uint8Array", other);
    return this === other || (viewLength(this) === viewLength(other) && compareBytes(this, other) === 0);
  },

  compare(target, targetStart, targetEnd, start, end) {
    needBytes(target, "target");
    if (arguments.length === 1) return compareBytes(this, target);
    const range = (value, name, fallback, most) => {
      if (value === undefined) return fallback;
      checkInteger(value, name, 0, most);
      return value;
    };
    const from = range(targetStart, "targetStart", 0, NumberOf.MAX_SAFE_INTEGER);
    const to = range(targetEnd, "targetEnd", target.length, target.length);
    const ownFrom = range(start, "sourceStart", 0, NumberOf.MAX_SAFE_INTEGER);
    const ownTo = range(end, "sourceEnd", this.length, this.length);
    if (ownFrom >= ownTo) return from >= to ? 0 : -1;
    if (from >= to) return 1;
    return compareBytes(this.subarray(ownFrom, ownTo), target.subarray(from, to));
  },

  slice(start, end) {
    return this.subarray(start, end);
  },

  subarray(start, end) {
    const length = viewLength(this);
    const from = bound(start, length, 0);
    const to = bound(end, length, length);
    return new FastBuffer(viewBuffer(this), viewOffset(this) + from, max(0, to - from));
  },

  copy(target, targetStart, start, end) {
    if (!isView(target)) throw argumentError("target", "an instance of Buffer or Uint8Array", target);
    const into = bytesOf(target);
    const offset = (value, name, fallback) => {
      const number = value === undefined ? fallback : trunc(+value) || 0;
      if (number < 0) throw rangeError(name, ">= 0", value);
      return number;
    };
    const at = offset(targetStart, "targetStart", 0);
    const from = offset(start, "sourceStart", 0);
    const to = min(offset(end, "sourceEnd", this.length), this.length);
    if (from > this.length) throw rangeError("sourceStart", `>= 0 && <= ${this.length}`, start);
    const count = min(to - from, into.length - at);
    if (count <= 0) return 0;
    copyInto(into, new U8(viewBuffer(this), viewOffset(this) + from, count), at);
    return count;
  },

  fill(value, offset, end, encoding) {
    if (typeof value === "string") {
      if (offset === undefined || typeof offset === "string") {
        encoding = offset;
        offset = undefined;
        end = undefined;
      } else if (typeof end === "string") {
        encoding = end;
        end = undefined;
      }
      if (encoding !== undefined && typeof encoding !== "string") throw argumentError("encoding", "of type string", encoding);
    } else if (offset !== undefined && typeof offset === "string") {
      offset = undefined;
      end = undefined;
    }
    const name = typeof value === "string" ? knownEncoding(encoding) : undefined;
    if (offset !== undefined) checkInteger(offset, "offset", 0);
    if (end !== undefined) checkInteger(end, "end", 0, this.length);
    const from = offset ?? 0;
    const to = end ?? this.length;
    if (from >= to) return this;
    if (typeof value === "number" || typeof value === "boolean") {
      fillBytes(this, value & 255, from, to);
      return this;
    }
    const pattern = typeof value === "string" ? (value === "" ? new U8(1) : encodeText(value, name)) : bytesOf(value);
    if (!pattern) {
      fillBytes(this, NumberOf(value) & 255, from, to);
      return this;
    }
    if (viewBytes(pattern) === 0) throw valueError("value", value);
    for (let at = from; at < to; at += pattern.length)
      copyInto(this, at + pattern.length > to ? pattern.subarray(0, to - at) : pattern, at);
    return this;
  },

  write(text, offset, length, encoding) {
    checkString(text, "argument");
    if (typeof offset === "string") {
      encoding = offset;
      offset = length = undefined;
    } else if (typeof length === "string") {
      encoding = length;
      length = undefined;
    }
    if (offset !== undefined) checkInteger(offset, "offset", 0, this.length);
    const at = offset ?? 0;
    const room = this.length - at;
    if (length !== undefined) checkInteger(length, "length", 0, room);
    return writeText(this, text, at, length === undefined ? room : min(length, room), knownEncoding(encoding));
  },

  indexOf(value, byteOffset, encoding) {
    return search(this, value, byteOffset, encoding, true);
  },

  lastIndexOf(value, byteOffset, encoding) {
    return search(this, value, byteOffset, encoding, false);
  },

  includes(value, byteOffset, encoding) {
    return this.indexOf(value, byteOffset, encoding) !== -1;
  },

  swap16() {
    return swap(this, 2);
  },
  swap32() {
    return swap(this, 4);
  },
  swap64() {
    return swap(this, 8);
  },

  [INSPECT_CUSTOM](depth, options) {
    const shown = min(50, this.length);
    let text = replaceBy(/(.{2})(?=.)/g, toHex(new U8(viewBuffer(this), viewOffset(this), shown)), "$1 ");
    if (this.length > shown) text += ` ... ${this.length - shown} more byte${this.length - shown > 1 ? "s" : ""}`;
    for (const key of objectKeys(this))
      if (!isIndexKey(key)) text += `, ${key}: ${inspect(this[key], { ...options, depth: 0 })}`;
    return `<${this.constructor.name} ${text}>`;
  },

  get parent() {
    return isBuffer(this) ? viewBuffer(this) : undefined;
  },
  get offset() {
    return isBuffer(this) ? viewOffset(this) : undefined;
  },
});

for (const ending of objectKeys(latinNames)) {
  const name = latinNames[ending];
  defineHidden(FastBuffer.prototype, {
    [`${ending}Slice`](start, end) {
      return this.toString(name, start, end);
    },
    [`${ending}Write`](text, offset = 0, length = this.length - offset) {
      return writeText(this, text, offset, min(length, this.length - offset), name);
    },
  });
}

function writeText(buffer, text, at, room, encoding) {
  let bytes = encodeText(text, encoding);
  if (bytes.length > room) {
    let end = room;
    // No half character.
    if (encoding === "utf8") while (end > 0 && (bytes[end] & 0xc0) === 0x80) end--;
    else if (encoding === "utf16le") end &= ~1;
    bytes = bytes.subarray(0, end);
  }
  copyInto(buffer, bytes, at);
  return bytes.length;
}

function swap(buffer, size) {
  if (buffer.length % size !== 0)
    throw nodeError(RangeErrorClass, "ERR_INVALID_BUFFER_SIZE", `Buffer size must be a multiple of ${size * 8}-bits`);
  for (let at = 0; at < buffer.length; at += size) {
    for (let i = 0; i < size / 2; i++) {
      const byte = buffer[at + i];
      buffer[at + i] = buffer[at + size - 1 - i];
      buffer[at + size - 1 - i] = byte;
    }
  }
  return buffer;
}

function search(buffer, value, byteOffset, encoding, forward) {
  if (typeof byteOffset === "string") {
    encoding = byteOffset;
    byteOffset = undefined;
  }
  const length = buffer.length;
  let offset = +byteOffset;
  if (isNaNumber(offset)) offset = forward ? 0 : length;
  offset = trunc(max(-2147483648, min(2147483647, offset)));
  if (typeof value === "number") {
    const from = offset < 0 ? offset + length : offset;
    const byte = value & 255;
    if (forward) {
      for (let i = max(from, 0); i < length; i++) if (buffer[i] === byte) return i;
    } else {
      for (let i = min(from, length - 1); i >= 0; i--) if (buffer[i] === byte) return i;
    }
    return -1;
  }
  let needle;
  const name = typeof value === "string" ? knownEncoding(encoding) : (encodingName(encoding) ?? "utf8");
  if (typeof value === "string") needle = encodeText(value, name);
  else if (tagOfView(value) === "Uint8Array") needle = value;
  else throw argumentError("value", "one of type number or string or an instance of Buffer or Uint8Array", value);
  return searchBytes(buffer, needle, offset, forward, name === "utf16le" ? 2 : 1);
}

function searchBytes(buffer, needle, offset, forward, step) {
  const length = buffer.length;
  let at = offset < 0 ? offset + length : offset;
  if (at < 0) {
    if (!forward) return -1;
    at = 0;
  }
  if (needle.length === 0) return min(at, length);
  if (at > length - needle.length) {
    if (forward) return -1;
    at = length - needle.length;
  }
  if (step === 2 && at % 2 !== 0) at += forward ? 1 : -1;
  const first = needle[0];
  for (let i = at; i >= 0 && i <= length - needle.length; i += forward ? step : -step) {
    if (buffer[i] !== first) continue;
    let same = 1;
    while (same < needle.length && buffer[i + same] === needle[same]) same++;
    if (same === needle.length) return i;
  }
  return -1;
}
