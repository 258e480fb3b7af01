// Randomness: the host's, from the seed of the run.

const randomChunk = (length) => new U8(sync([RANDOM, StringOf(length)]));

// What the host gives at a time.
const MOST_DRAWN = 1 << 20;

function randomValues(length) {
  if (length <= MOST_DRAWN) return length === 0 ? EMPTY : randomChunk(length);
  const all = new U8(length);
  for (let at = 0; at < length; at += MOST_DRAWN) copyInto(all, randomChunk(min(MOST_DRAWN, length - at)), at);
  return all;
}

function getRandomValues(view) {
  const kind = isView(view) ? tagOfView(view) : undefined;
  if (kind === undefined || matches(/^Float/, kind))
    throw domError("TypeMismatchError", "The data argument must be an integer-type TypedArray");
  const bytes = bytesOf(view);
  if (viewBytes(bytes) > 65536)
    throw domError("QuotaExceededError", `The requested length of ${viewBytes(bytes)} bytes exceeds the limit of 65536 bytes`);
  copyInto(bytes, randomValues(viewBytes(bytes)));
  return view;
}

function randomUUID() {
  const bytes = randomValues(16);
  bytes[6] = (bytes[6] & 15) | 64;
  bytes[8] = (bytes[8] & 63) | 128;
  const hex = toHex(bytes);
  return `${sliceText(hex, 0, 8)}-${sliceText(hex, 8, 12)}-${sliceText(hex, 12, 16)}-${sliceText(hex, 16, 20)}-${sliceText(hex, 20)}`;
}

const MOST_RANDOM = 2 ** 48 - 1;

// Every number of the range is as likely as any other: what would favour some is drawn again.
function randomInt(least, most, callback) {
  if (most === undefined || typeof most === "function") {
    callback = most;
    most = least;
    least = 0;
  }
  if (callback !== undefined) checkFunction(callback, "callback");
  if (!isSafeInteger(least)) throw argumentError("min", "a safe integer", least);
  if (!isSafeInteger(most)) throw argumentError("max", "a safe integer", most);
  if (most <= least) throw rangeError("max", `greater than the value of "min" (${least})`, most);
  const range = most - least;
  if (range > MOST_RANDOM) throw rangeError("max - min", `<= ${MOST_RANDOM}`, range);
  const limit = MOST_RANDOM - (MOST_RANDOM % range);
  let drawn;
  do {
    const bytes = randomValues(6);
    drawn = 0;
    for (let i = 0; i < 6; i++) drawn = drawn * 256 + bytes[i];
  } while (drawn >= limit);
  const result = (drawn % range) + least;
  if (callback === undefined) return result;
  later(callback, undefined, result);
}

const enqueue = queueMicrotask;

// Calls back after the function that was called has returned.
const later = (callback, ...args) => enqueue(() => apply(callback, undefined, args));

function randomBytes(size, callback) {
  checkSize(size);
  if (callback !== undefined) checkFunction(callback, "callback");
  const bytes = asBuffer(size === 0 ? new U8(0) : randomValues(size));
  if (callback === undefined) return bytes;
  later(callback, null, bytes);
}

function randomFillSync(target, offset = 0, size) {
  const bytes = bytesOf(target);
  if (!bytes) throw argumentError("buf", "an instance of ArrayBuffer or ArrayBufferView", target);
  const length = viewBytes(bytes);
  checkInteger(offset, "offset", 0, length);
  const count = size === undefined ? length - offset : size;
  checkInteger(count, "size", 0, MAX_BUFFER);
  if (offset + count > length) throw rangeError("size + offset", `<= ${length}`, offset + count);
  copyInto(bytes, randomValues(count), offset);
  return target;
}

function randomFill(target, offset, size, callback) {
  if (typeof offset === "function") [callback, offset, size] = [offset, 0, undefined];
  else if (typeof size === "function") [callback, size] = [size, undefined];
  checkFunction(callback, "callback");
  later(callback, null, randomFillSync(target, offset, size));
}
