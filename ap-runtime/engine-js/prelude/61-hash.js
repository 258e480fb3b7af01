// Node's hashes, HMACs and key derivation. A placeholder of a connection may be a key or password; the host refuses it as data.

const DIGESTS = [
  "md5",
  "sha1",
  "sha224",
  "sha256",
  "sha384",
  "sha512",
  "sha512-224",
  "sha512-256",
  "sha3-224",
  "sha3-256",
  "sha3-384",
  "sha3-512",
];

// `SHA-256`, `RSA-SHA256` and `sha256` are one; `undefined` for what is not known.
function digestName(name) {
  let text = lower(StringOf(name));
  if (arrayHas(DIGESTS, text)) return text;
  text = replaceBy(/^rsa-/, text, "");
  text = replaceBy(/^sha-(?=\d)/, text, "sha");
  text = replaceBy(/^sha512\/(?=2)/, text, "sha512-");
  return arrayHas(DIGESTS, text) ? text : undefined;
}

function digestOrThrow(name) {
  checkString(name, "digest");
  const known = digestName(name);
  if (!known) throw nodeError(TypeErrorClass, "ERR_CRYPTO_INVALID_DIGEST", `Invalid digest: ${name}`);
  return known;
}

const DATA = "of type string or an instance of Buffer, TypedArray, or DataView";

// A private copy of data: what is hashed later is what it was when it was given.
function dataBytes(data, encoding, name = "data") {
  if (typeof data === "string") {
    const known = encodingName(encoding) ?? "utf8";
    return encodeText(data, known);
  }
  if (!isView(data)) throw argumentError(name, DATA, data);
  return copyOf(bytesOf(data));
}

// Key material: text stays text, since the host knows its own placeholders by it.
function keyMaterial(key, name = "key", encoding = undefined) {
  if (typeof key === "string")
    return encoding === undefined || encodingName(encoding) === "utf8" ? key : encodeText(key, knownEncoding(encoding));
  const own = keyBytes(key);
  if (own) return own;
  const bytes = bytesOf(key);
  if (!bytes)
    throw argumentError(
      name,
      "of type string or an instance of ArrayBuffer, Buffer, TypedArray, DataView, KeyObject, or CryptoKey",
      key,
    );
  return bytes;
}

const encoded = (bytes, encoding) =>
  encoding && encoding !== "buffer" ? decodeText(bytes, encodingName(encoding) ?? "utf8") : asBuffer(bytes);

const finalized = () => nodeError(ErrorClass, "ERR_CRYPTO_HASH_FINALIZED", "Digest already called");

class Hash {
  #digest;
  #parts = [];
  #done = false;

  constructor(algorithm) {
    checkString(algorithm, "algorithm");
    this.#digest = digestName(algorithm);
    if (!this.#digest)
      throw nodeError(
        ErrorClass,
        "ERR_OSSL_EVP_UNSUPPORTED",
        `Digest method not supported: ${algorithm}; there are ${join(DIGESTS, ", ")}`,
      );
  }
  update(data, encoding) {
    if (this.#done) throw finalized();
    push(this.#parts, dataBytes(data, encoding));
    return this;
  }
  digest(encoding) {
    if (this.#done) throw finalized();
    this.#done = true;
    return encoded(new U8(sync([HASH, this.#digest, dataOf(this.#parts)])), encoding);
  }
  copy() {
    if (this.#done) throw finalized();
    const copy = new Hash(this.#digest);
    copy.#parts = sliceArray(this.#parts);
    return copy;
  }
}

const dataOf = (parts) => (parts.length === 0 ? EMPTY : concatBytes(parts));

class Hmac {
  #digest;
  #key;
  #parts = [];
  #done = false;

  constructor(algorithm, key, options) {
    checkString(algorithm, "hmac");
    const material = keyMaterial(key, "key", options?.encoding);
    this.#key = typeof material === "string" ? material : copyOf(material);
    this.#digest = digestName(algorithm);
    if (!this.#digest) throw nodeError(TypeErrorClass, "ERR_CRYPTO_INVALID_DIGEST", `Invalid digest: ${algorithm}`);
  }
  update(data, encoding) {
    if (this.#done) throw finalized();
    push(this.#parts, dataBytes(data, encoding));
    return this;
  }
  digest(encoding) {
    // Here Node gives nothing the second time, and no error.
    if (this.#done) return encoded(EMPTY, encoding);
    this.#done = true;
    return encoded(new U8(sync([HMAC, this.#digest, this.#key, dataOf(this.#parts)])), encoding);
  }
}

const createHash = (algorithm) => new Hash(algorithm);
const createHmac = (algorithm, key, options) => new Hmac(algorithm, key, options);

function hash(algorithm, data, encoding = "hex") {
  return new Hash(algorithm).update(data).digest(encoding);
}

// Options as JSON; password and salt as they are.
function derive(options, password, salt, info = EMPTY) {
  return new U8(sync([KDF, toJson(options), password, salt, info]));
}

function pbkdf2Sync(password, salt, iterations, length, digest) {
  const hash = digestOrThrow(digest);
  const secret = keyMaterial(password, "password");
  const bytes = dataBytes(salt, "utf8", "salt");
  checkInteger(iterations, "iterations", 1, 2147483647);
  checkInteger(length, "keylen", 0, 2147483647);
  return asBuffer(derive({ kind: "pbkdf2", hash, iterations, length }, secret, bytes));
}

function scryptSync(password, salt, length, options = {}) {
  const secret = keyMaterial(password, "password");
  const bytes = dataBytes(salt, "utf8", "salt");
  checkInteger(length, "keylen", 0, 2147483647);
  const pick = (long, short, fallback) => {
    const value = options?.[short] ?? options?.[long] ?? fallback;
    checkInteger(value, short, 0, NumberOf.MAX_SAFE_INTEGER);
    return value || fallback;
  };
  const N = pick("cost", "N", 16384);
  const r = pick("blockSize", "r", 8);
  const p = pick("parallelization", "p", 1);
  const maxmem = pick("maxmem", "maxmem", 32 * 1024 * 1024);
  const invalid = (why) => nodeError(RangeErrorClass, "ERR_CRYPTO_INVALID_SCRYPT_PARAMS", `Invalid scrypt params: ${why}`);
  if (N < 2 || (N & (N - 1)) !== 0 || N > 2 ** 30) throw invalid("N must be a power of two");
  if (128 * N * r + 128 * r * p > maxmem) throw invalid("memory limit exceeded");
  return asBuffer(derive({ kind: "scrypt", N, r, p, maxmem, length }, secret, bytes));
}

function hkdfSync(digest, key, salt, info, length) {
  const hash = digestOrThrow(digest);
  const secret = keyMaterial(key, "ikm");
  const saltBytes = isAnyBuffer(salt) ? new U8(salt) : dataBytes(salt, "utf8", "salt");
  const infoBytes = isAnyBuffer(info) ? new U8(info) : dataBytes(info, "utf8", "info");
  checkInteger(length, "length", 0, 2147483647);
  if (infoBytes.length > 1024) throw rangeError("info", "must not contain more than 1024 bytes", infoBytes.length);
  return viewBuffer(copyOf(derive({ kind: "hkdf", hash, length }, secret, saltBytes, infoBytes)));
}

// The callback's turn of a function that waits for nothing.
const withCallback = (run) =>
  function (...args) {
    const callback = args.pop();
    checkFunction(callback, "callback");
    let result;
    try {
      result = apply(run, undefined, args);
    } catch (error) {
      if (error.code === "ERR_INVALID_ARG_TYPE" || error.code === "ERR_OUT_OF_RANGE") throw error;
      return later(callback, error);
    }
    later(callback, null, result);
  };

function timingSafeEqual(left, right) {
  const one = bytesOf(left);
  const other = bytesOf(right);
  if (!one) throw argumentError("buf1", "an instance of ArrayBuffer, Buffer, TypedArray, or DataView", left);
  if (!other) throw argumentError("buf2", "an instance of ArrayBuffer, Buffer, TypedArray, or DataView", right);
  if (viewBytes(one) !== viewBytes(other))
    throw nodeError(RangeErrorClass, "ERR_CRYPTO_TIMING_SAFE_EQUAL_LENGTH", "Input buffers must have the same byte length");
  return new U8(sync([EQUAL, one, other]))[0] === 1;
}
