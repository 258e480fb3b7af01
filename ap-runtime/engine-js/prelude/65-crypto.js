// The module `crypto`, which is also the global of that name: Node's functions beside those of Web Crypto.

const nodeCrypto = {
  createHash,
  createHmac,
  hash,
  createCipheriv,
  createDecipheriv,
  createSecretKey,
  randomBytes,
  pseudoRandomBytes: randomBytes,
  randomInt,
  randomUUID,
  randomFill,
  randomFillSync,
  getRandomValues,
  timingSafeEqual,
  pbkdf2Sync,
  pbkdf2: withCallback(pbkdf2Sync),
  scryptSync,
  scrypt: withCallback((password, salt, length, options) => scryptSync(password, salt, length, options)),
  hkdfSync,
  hkdf: withCallback(hkdfSync),
  generateKeySync,
  generateKey: withCallback(generateKeySync),
  getHashes: () => sliceArray(DIGESTS),
  getCiphers: () => objectKeys(CIPHERS),
  getCurves: () => [],
  getCipherInfo(name) {
    const cipher = CIPHERS[lower(StringOf(name))];
    if (!cipher) return undefined;
    const info = { mode: cipher.mode, name: cipher.name, keyLength: cipher.keyLength, ivLength: cipher.ivLength };
    if (cipher.mode === "cbc") info.blockSize = 16;
    return info;
  },
  Hash,
  Hmac,
  Cipheriv,
  Decipheriv,
  KeyObject,
  constants: freeze({ __proto__: null }),
  subtle,
};

{
  const withIv = (name) => `it makes a weak key and repeats the IV; use crypto.${name}(algorithm, key, crypto.randomBytes(16))`;
  const signing =
    "only secret keys are; a step of the piece `http` sends requests that a connection signs (JWT, HMAC, AWS Signature 4), without " +
    "showing its key";
  const absent = {
    createCipher: withIv("createCipheriv"),
    createDecipher: "use crypto.createDecipheriv(algorithm, key, iv) with the IV that was kept with the message",
  };
  for (const name of [
    "sign",
    "verify",
    "createSign",
    "createVerify",
    "createPublicKey",
    "createPrivateKey",
    "publicEncrypt",
    "publicDecrypt",
    "privateEncrypt",
    "privateDecrypt",
    "generateKeyPair",
    "generateKeyPairSync",
    "createECDH",
    "createDiffieHellman",
    "createDiffieHellmanGroup",
    "getDiffieHellman",
    "diffieHellman",
    "X509Certificate",
  ])
    absent[name] = signing;
  for (const name of objectKeys(absent)) {
    const advice = absent[name];
    nodeCrypto[name] = function () {
      throw nodeError(ErrorClass, "ERR_FEATURE_UNAVAILABLE", `crypto.${name} is not available in a code step: ${advice}`);
    };
  }
}
nodeCrypto.webcrypto = nodeCrypto;
