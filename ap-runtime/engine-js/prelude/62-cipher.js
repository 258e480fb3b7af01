// Node's ciphers. The host works on whole messages; `update` gives what it can at once, and `final` the rest.

const CIPHERS = { __proto__: null };
for (const bits of [128, 192, 256]) {
  for (const mode of ["cbc", "ctr", "gcm"])
    CIPHERS[`aes-${bits}-${mode}`] = {
      name: `aes-${bits}-${mode}`,
      mode,
      keyLength: bits / 8,
      ivLength: mode === "gcm" ? 12 : 16,
      aead: mode === "gcm",
    };
}
CIPHERS["chacha20-poly1305"] = { name: "chacha20-poly1305", mode: "stream", keyLength: 32, ivLength: 12, aead: true };

function cipherOf(name) {
  checkString(name, "cipher");
  let known = lower(name);
  known = replaceBy(/^aes(128|192|256)$/, known, "aes-$1-cbc");
  known = replaceBy(/^id-aes(128|192|256)-gcm$/, known, "aes-$1-gcm");
  const cipher = CIPHERS[known];
  if (!cipher)
    throw nodeError(
      ErrorClass,
      "ERR_CRYPTO_UNKNOWN_CIPHER",
      `Unknown cipher: ${name}; there are ${join(objectKeys(CIPHERS), ", ")}`,
    );
  return cipher;
}

function runCipher(options, key, iv, aad, data, tag) {
  return new U8(sync([CIPHER, toJson(options), key, iv, aad, data, tag]));
}

const invalidState = (operation) =>
  nodeError(ErrorClass, "ERR_CRYPTO_INVALID_STATE", `Invalid state for operation ${operation}`);

const wrongLength = () =>
  nodeError(ErrorClass, "ERR_OSSL_WRONG_FINAL_BLOCK_LENGTH", "error:1C80006B:Provider routines::wrong final block length");

// Updates that may each ask the host about everything so far; later ones wait for `final`.
const MOST_EAGER = 64;

class CipherBase {
  #cipher;
  #decrypt;
  #key;
  #iv;
  #parts = [];
  #aad = [];
  #tag = null;
  #tagLength;
  #padding = true;
  #given = 0;
  #updates = 0;
  #complete = false;
  #final = false;
  #decoder = null;

  constructor(decrypt, name, key, iv, options) {
    const cipher = (this.#cipher = cipherOf(name));
    this.#decrypt = decrypt;
    const material = keyMaterial(key);
    this.#key = typeof material === "string" ? utf8Bytes(material) : copyOf(material);
    if (viewBytes(this.#key) !== cipher.keyLength && !isHandleBytes(this.#key))
      throw nodeError(RangeErrorClass, "ERR_CRYPTO_INVALID_KEYLEN", "Invalid key length");
    this.#iv = iv === null ? EMPTY : dataBytes(iv, "utf8", "iv");
    const right = cipher.mode === "gcm" ? this.#iv.length > 0 : this.#iv.length === cipher.ivLength;
    if (!right) throw nodeError(TypeErrorClass, "ERR_CRYPTO_INVALID_IV", "Invalid initialization vector");
    this.#tagLength = options?.authTagLength;
    if (cipher.aead && this.#tagLength !== undefined) this.#checkTagLength(this.#tagLength);
  }

  #checkTagLength(length) {
    const valid = this.#cipher.mode === "gcm" ? length === 4 || length === 8 || (length >= 12 && length <= 16) : length === 16;
    if (!valid) throw nodeError(TypeErrorClass, "ERR_CRYPTO_INVALID_AUTH_TAG", `Invalid authentication tag length: ${length}`);
  }

  #run(data) {
    const { name, aead } = this.#cipher;
    const options = { algorithm: name, decrypt: this.#decrypt };
    if (!this.#padding) options.padding = false;
    if (aead) options.tagLength = this.#tag && this.#decrypt ? this.#tag.length : (this.#tagLength ?? 16);
    return runCipher(options, this.#key, this.#iv, dataOf(this.#aad), data, this.#decrypt && this.#tag ? this.#tag : EMPTY);
  }

  // Everything there is to give now; `false` while an authenticated message is incomplete.
  #stream() {
    const data = dataOf(this.#parts);
    this.#parts = data.length > 0 ? [data] : [];
    let all = this.#run(data);
    if (this.#cipher.aead && !this.#decrypt) {
      this.#tag = copyOf(all.subarray(data.length));
      all = all.subarray(0, data.length);
    }
    this.#complete = true;
    const fresh = all.subarray(this.#given);
    this.#given = all.length;
    return fresh;
  }

  update(data, inputEncoding, outputEncoding) {
    if (this.#final) throw nodeError(ErrorClass, "ERR_CRYPTO_INVALID_STATE", "Trying to add data in unsupported state");
    const bytes = dataBytes(data, inputEncoding);
    if (bytes.length > 0) {
      push(this.#parts, bytes);
      this.#complete = false;
    }
    this.#updates++;
    return this.#give(this.#eager(bytes), outputEncoding);
  }

  #eager(bytes) {
    if (bytes.length === 0 || this.#cipher.mode === "cbc" || this.#updates > MOST_EAGER) return EMPTY;
    if (!(this.#decrypt && this.#cipher.aead)) return this.#stream();
    // Nothing comes out before it is authentic.
    if (!this.#tag || this.#given > 0) return EMPTY;
    try {
      return this.#stream();
    } catch (error) {
      if (error instanceof TypeErrorClass || error instanceof RangeErrorClass || error instanceof DOMExceptionClass)
        throw error;
      return EMPTY;
    }
  }

  final(outputEncoding) {
    if (this.#final) throw invalidState("final");
    if (this.#decrypt && this.#cipher.aead && !this.#tag)
      throw new ErrorClass("Unsupported state or unable to authenticate data");
    const rest = this.#cipher.mode === "cbc" ? this.#blocks() : this.#complete ? EMPTY : this.#stream();
    this.#final = true;
    const text = this.#give(rest, outputEncoding);
    return this.#decoder ? text + this.#decoder.end() : text;
  }

  #blocks() {
    const data = dataOf(this.#parts);
    const whole = data.length % 16 === 0;
    if (this.#padding ? this.#decrypt && (!whole || data.length === 0) : !whole) throw wrongLength();
    return data.length === 0 && !this.#padding ? EMPTY : this.#run(data);
  }

  #give(bytes, encoding) {
    if (!encoding || encoding === "buffer") return asBuffer(copyOf(bytes));
    this.#decoder ??= new StringDecoder(encoding);
    return this.#decoder.write(bytes);
  }

  setAutoPadding(padding = true) {
    this.#padding = Boolean(padding);
    return this;
  }
  setAAD(data) {
    if (!this.#cipher.aead || this.#updates > 0) throw invalidState("setAAD");
    push(this.#aad, dataBytes(data, "utf8", "buffer"));
    return this;
  }

  static {
    cipherTag = (cipher) => {
      if (!cipher.#cipher.aead || !cipher.#final) throw invalidState("getAuthTag");
      return asBuffer(copyOf(cipher.#tag));
    };
    setCipherTag = (cipher, tag, encoding) => {
      if (!cipher.#cipher.aead || cipher.#tag || cipher.#final) throw invalidState("setAuthTag");
      const bytes = dataBytes(tag, encoding, "buffer");
      cipher.#checkTagLength(bytes.length);
      if (cipher.#tagLength !== undefined && cipher.#tagLength !== bytes.length)
        throw nodeError(TypeErrorClass, "ERR_CRYPTO_INVALID_AUTH_TAG", `Invalid authentication tag length: ${bytes.length}`);
      cipher.#tag = bytes;
      return cipher;
    };
  }
}
var cipherTag, setCipherTag;

class Cipheriv extends CipherBase {
  constructor(name, key, iv, options) {
    super(false, name, key, iv, options);
  }
  getAuthTag() {
    return cipherTag(this);
  }
}

class Decipheriv extends CipherBase {
  constructor(name, key, iv, options) {
    super(true, name, key, iv, options);
  }
  setAuthTag(tag, encoding) {
    return setCipherTag(this, tag, encoding);
  }
}

const createCipheriv = (name, key, iv, options) => new Cipheriv(name, key, iv, options);
const createDecipheriv = (name, key, iv, options) => new Decipheriv(name, key, iv, options);
