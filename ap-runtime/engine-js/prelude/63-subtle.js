// Web Crypto: `crypto.subtle` for secret keys.

let makingKey = null;
let keyBytes;

class CryptoKey {
  #bytes;
  #type = "secret";
  #extractable;
  #algorithm;
  #usages;
  constructor() {
    if (!makingKey) throw illegal();
    [this.#bytes, this.#extractable, this.#algorithm, this.#usages] = makingKey;
    makingKey = null;
  }
  get type() {
    return this.#type;
  }
  get extractable() {
    return this.#extractable;
  }
  get algorithm() {
    return this.#algorithm;
  }
  get usages() {
    return this.#usages;
  }
  static {
    cryptoKeyBytes = (value) => (typeof value === "object" && value !== null && #bytes in value ? value.#bytes : undefined);
  }
}
var cryptoKeyBytes;
webInterface(CryptoKey, "CryptoKey");

class KeyObject {
  #bytes;
  constructor(type, bytes) {
    if (type !== "secret" || !bytes) throw valueError("type", type);
    this.#bytes = copyOf(bytes);
  }
  get type() {
    return "secret";
  }
  get symmetricKeySize() {
    return this.#bytes.length;
  }
  export(options) {
    if (options?.format === "jwk") return { kty: "oct", k: base64urlText(this.#bytes) };
    return asBuffer(copyOf(this.#bytes));
  }
  equals(other) {
    const bytes = keyBytes(other);
    if (!bytes) throw argumentError("otherKeyObject", "an instance of KeyObject", other);
    return bytes.length === this.#bytes.length && timingSafeEqual(bytes, this.#bytes);
  }
  static from(key) {
    const bytes = cryptoKeyBytes(key);
    if (!bytes) throw argumentError("key", "an instance of CryptoKey", key);
    return new KeyObject("secret", bytes);
  }
  static {
    keyBytes = (value) =>
      typeof value === "object" && value !== null && #bytes in value ? value.#bytes : cryptoKeyBytes(value);
  }
}

function createSecretKey(key, encoding) {
  const material = keyMaterial(key, "key", encoding);
  return new KeyObject("secret", typeof material === "string" ? utf8Bytes(material) : material);
}

function generateKeySync(type, options) {
  if (type !== "hmac" && type !== "aes") throw valueError("type", type, "must be a supported key type");
  const length = options?.length;
  if (type === "aes") {
    if (!arrayHas([128, 192, 256], length)) throw valueError("options.length", length, "must be one of: 128, 192, 256");
  } else checkInteger(length, "options.length", 8, 2 ** 31 - 1);
  return new KeyObject("secret", randomValues(length >> 3));
}

const SUBTLE_HASHES = { __proto__: null, "SHA-1": "sha1", "SHA-256": "sha256", "SHA-384": "sha384", "SHA-512": "sha512" };
const SUBTLE_USAGES = {
  __proto__: null,
  HMAC: ["sign", "verify"],
  "AES-GCM": ["encrypt", "decrypt", "wrapKey", "unwrapKey"],
  "AES-CBC": ["encrypt", "decrypt", "wrapKey", "unwrapKey"],
  "AES-CTR": ["encrypt", "decrypt", "wrapKey", "unwrapKey"],
  PBKDF2: ["deriveKey", "deriveBits"],
  HKDF: ["deriveKey", "deriveBits"],
};
const ALL_USAGES = ["encrypt", "decrypt", "sign", "verify", "deriveKey", "deriveBits", "wrapKey", "unwrapKey"];

function subtleHash(hash) {
  const name = typeof hash === "object" && hash !== null ? hash.name : hash;
  const known = upper(StringOf(name));
  if (!SUBTLE_HASHES[known]) throw domError("NotSupportedError", `Unrecognized algorithm name: ${StringOf(name)}`);
  return known;
}

function subtleAlgorithm(algorithm) {
  const given = typeof algorithm === "object" && algorithm !== null ? algorithm : { name: algorithm };
  const name = upper(StringOf(given.name));
  if (!SUBTLE_USAGES[name])
    throw domError(
      "NotSupportedError",
      `${StringOf(given.name)} is not available in a code step; there are ${join(objectKeys(SUBTLE_USAGES), ", ")}`,
    );
  return [name, given];
}

function subtleUsages(name, usages) {
  const wanted = [];
  for (const usage of usages) {
    if (!arrayHas(ALL_USAGES, usage)) throw new TypeErrorClass(`${StringOf(usage)} is not a valid enum value of type KeyUsage`);
    if (!arrayHas(SUBTLE_USAGES[name], usage)) throw domError("SyntaxError", `Unsupported key usage for a ${name} key`);
    if (!arrayHas(wanted, usage)) push(wanted, usage);
  }
  if (wanted.length === 0) throw domError("SyntaxError", "Usages cannot be empty when importing a secret key.");
  return wanted;
}

function makeKey(bytes, extractable, algorithm, usages) {
  makingKey = [bytes, Boolean(extractable), algorithm, usages];
  return new CryptoKey();
}

function needKey(key, name, usage) {
  const bytes = cryptoKeyBytes(key);
  if (!bytes) throw argumentError("key", "an instance of CryptoKey", key);
  if (name !== undefined && key.algorithm.name !== name) throw domError("InvalidAccessError", "Key algorithm mismatch");
  if (!arrayHas(key.usages, usage)) throw domError("InvalidAccessError", `Unable to use this key to ${usage}`);
  return bytes;
}

// A failed decryption has no detail; what the host refuses keeps its reason.
function operation(run) {
  try {
    return run();
  } catch (error) {
    if (error instanceof DOMExceptionClass) throw error;
    throw domError(
      "OperationError",
      error.code === undefined && error.message ? error.message : "The operation failed for an operation-specific reason",
    );
  }
}

const arrayBufferOf = (bytes) => viewBuffer(copyOf(bytes));
const blockBytes = (hash) => (hash === "SHA-384" || hash === "SHA-512" ? 128 : 64);

function subtleCipher(name, given, key, data, decrypt) {
  const bits = isHandleBytes(key) ? 256 : key.length * 8;
  const mode = lower(sliceText(name, 4));
  const algorithm = `aes-${bits}-${mode}`;
  if (mode === "gcm") {
    const iv = bufferSource(given.iv, "algorithm.iv");
    const tagBits = given.tagLength ?? 128;
    if (!arrayHas([32, 64, 96, 104, 112, 120, 128], tagBits))
      throw domError("OperationError", `${tagBits} is not a valid AES-GCM tag length`);
    const aad = given.additionalData === undefined ? EMPTY : bufferSource(given.additionalData, "algorithm.additionalData");
    const tagLength = tagBits / 8;
    if (!decrypt) return operation(() => runCipher({ algorithm, decrypt, tagLength }, key, iv, aad, data, EMPTY));
    if (data.length < tagLength) throw domError("OperationError", "The provided data is too small.");
    const end = data.length - tagLength;
    return operation(() =>
      runCipher({ algorithm, decrypt, tagLength }, key, iv, aad, data.subarray(0, end), data.subarray(end)),
    );
  }
  const iv = bufferSource(mode === "ctr" ? given.counter : given.iv, mode === "ctr" ? "algorithm.counter" : "algorithm.iv");
  if (viewBytes(iv) !== 16)
    throw domError("OperationError", `algorithm.${mode === "ctr" ? "counter" : "iv"} must contain exactly 16 bytes`);
  return operation(() => runCipher({ algorithm, decrypt }, key, iv, EMPTY, data, EMPTY));
}

function subtleDerive(algorithm, key, length, usage) {
  const [name, given] = subtleAlgorithm(algorithm);
  const bytes = needKey(key, name, usage);
  if (length === null || length === undefined || length % 8 !== 0)
    throw domError("OperationError", "length must be a multiple of 8");
  const hash = SUBTLE_HASHES[subtleHash(given.hash)];
  const salt = bufferSource(given.salt, "algorithm.salt");
  if (name === "PBKDF2") {
    const { iterations } = given;
    if (!(isInteger(iterations) && iterations > 0)) throw domError("OperationError", "iterations cannot be zero");
    return operation(() => derive({ kind: "pbkdf2", hash, iterations, length: length / 8 }, bytes, salt));
  }
  if (name !== "HKDF") throw domError("NotSupportedError", `${name} does not derive keys`);
  return operation(() =>
    derive({ kind: "hkdf", hash, length: length / 8 }, bytes, salt, bufferSource(given.info, "algorithm.info")),
  );
}

const subtle = {
  async digest(algorithm, data) {
    return sync([HASH, SUBTLE_HASHES[subtleHash(algorithm)], bufferSource(data, "data")]);
  },

  async importKey(format, keyData, algorithm, extractable, usages) {
    const [name, given] = subtleAlgorithm(algorithm);
    const wanted = subtleUsages(name, usages);
    let bytes;
    if (format === "raw") bytes = copyOf(bufferSource(keyData, "keyData"));
    else if (format === "jwk") {
      if (keyData?.kty !== "oct" || typeof keyData.k !== "string")
        throw domError("DataError", 'Invalid keyData: a JWK of kty "oct" is needed');
      if (keyData.ext === false && extractable) throw domError("DataError", 'JWK "ext" parameter mismatch');
      bytes = encodeText(keyData.k, "base64url");
    } else throw domError("NotSupportedError", `Unable to import a ${name} key using ${StringOf(format)} format`);
    const bits = bytes.length * 8;
    switch (name) {
      case "HMAC": {
        if (bits === 0) throw domError("DataError", "Zero-length key is not supported");
        return makeKey(
          bytes,
          extractable,
          { name, hash: { name: subtleHash(given.hash) }, length: given.length ?? bits },
          wanted,
        );
      }
      case "PBKDF2":
      case "HKDF":
        if (extractable) throw domError("SyntaxError", `${name} keys are not extractable`);
        return makeKey(bytes, false, { name }, wanted);
      default:
        if (!arrayHas([128, 192, 256], bits) && !isHandleBytes(bytes)) throw domError("DataError", "Invalid key length");
        return makeKey(bytes, extractable, { name, length: isHandleBytes(bytes) ? 256 : bits }, wanted);
    }
  },

  async exportKey(format, key) {
    const bytes = cryptoKeyBytes(key);
    if (!bytes) throw argumentError("key", "an instance of CryptoKey", key);
    if (!key.extractable) throw domError("InvalidAccessError", "key is not extractable");
    if (format === "raw") return arrayBufferOf(bytes);
    if (format !== "jwk") throw domError("NotSupportedError", `Unable to export a key using ${StringOf(format)} format`);
    const { name, hash, length } = key.algorithm;
    const alg = name === "HMAC" ? `HS${sliceText(hash.name, 4)}` : `A${length}${sliceText(name, 4)}`;
    return { key_ops: sliceArray(key.usages), ext: true, kty: "oct", k: base64urlText(bytes), alg };
  },

  async generateKey(algorithm, extractable, usages) {
    const [name, given] = subtleAlgorithm(algorithm);
    const wanted = subtleUsages(name, usages);
    if (name === "HMAC") {
      const hash = subtleHash(given.hash);
      const length = given.length ?? blockBytes(hash) * 8;
      if (!(isInteger(length) && length > 0)) throw domError("OperationError", "Zero-length key is not supported");
      return makeKey(copyOf(randomValues((length + 7) >> 3)), extractable, { name, length, hash: { name: hash } }, wanted);
    }
    if (sliceText(name, 0, 4) !== "AES-") throw domError("NotSupportedError", `${name} keys cannot be generated`);
    if (!arrayHas([128, 192, 256], given.length)) throw domError("OperationError", "Invalid key length");
    return makeKey(copyOf(randomValues(given.length / 8)), extractable, { name, length: given.length }, wanted);
  },

  async sign(algorithm, key, data) {
    const [name] = subtleAlgorithm(algorithm);
    const bytes = needKey(key, name, "sign");
    if (name !== "HMAC") throw domError("NotSupportedError", `${name} does not sign`);
    return sync([HMAC, SUBTLE_HASHES[key.algorithm.hash.name], bytes, bufferSource(data, "data")]);
  },

  async verify(algorithm, key, signature, data) {
    const [name] = subtleAlgorithm(algorithm);
    const bytes = needKey(key, name, "verify");
    if (name !== "HMAC") throw domError("NotSupportedError", `${name} does not verify`);
    const given = bufferSource(signature, "signature");
    const right = new U8(sync([HMAC, SUBTLE_HASHES[key.algorithm.hash.name], bytes, bufferSource(data, "data")]));
    return given.length === right.length && timingSafeEqual(given, right);
  },

  async encrypt(algorithm, key, data) {
    const [name, given] = subtleAlgorithm(algorithm);
    return arrayBufferOf(subtleCipher(name, given, needKey(key, name, "encrypt"), bufferSource(data, "data"), false));
  },

  async decrypt(algorithm, key, data) {
    const [name, given] = subtleAlgorithm(algorithm);
    return arrayBufferOf(subtleCipher(name, given, needKey(key, name, "decrypt"), bufferSource(data, "data"), true));
  },

  async deriveBits(algorithm, key, length) {
    return arrayBufferOf(subtleDerive(algorithm, key, length, "deriveBits"));
  },

  async deriveKey(algorithm, key, derived, extractable, usages) {
    const [name, given] = subtleAlgorithm(derived);
    let length;
    if (name === "HMAC") length = given.length ?? blockBytes(subtleHash(given.hash)) * 8;
    else if (sliceText(name, 0, 4) === "AES-") length = given.length;
    else throw domError("NotSupportedError", `${name} keys cannot be derived`);
    const bytes = subtleDerive(algorithm, key, length, "deriveKey");
    return subtle.importKey("raw", bytes, derived, extractable, usages);
  },

  async wrapKey(format, key, wrapping, algorithm) {
    const exported = await subtle.exportKey(format, key);
    const data = format === "jwk" ? utf8Bytes(toJson(exported)) : new U8(exported);
    const [name, given] = subtleAlgorithm(algorithm);
    return arrayBufferOf(subtleCipher(name, given, needKey(wrapping, name, "wrapKey"), data, false));
  },

  async unwrapKey(format, wrapped, wrapping, algorithm, keyAlgorithm, extractable, usages) {
    const [name, given] = subtleAlgorithm(algorithm);
    const data = subtleCipher(name, given, needKey(wrapping, name, "unwrapKey"), bufferSource(wrapped, "wrappedKey"), true);
    return subtle.importKey(format, format === "jwk" ? parseJson(utf8Text(data)) : data, keyAlgorithm, extractable, usages);
  },
};
defineProperty(subtle, TAG, { value: "SubtleCrypto", configurable: true });
