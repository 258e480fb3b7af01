// The function of a step, and the second argument it gets.

const commonModule = { exports: {}, id: ".", filename: "/step.js", loaded: false, children: [], paths: [], require };

// `[function, context]`, or `undefined` if the step exports none. What most steps have comes first: whatever is looked at
// beyond it costs them a page of memory.
function pick(namespace, context) {
  let found = namespace.code;
  if (typeof found !== "function") found = pickOther(namespace);
  if (found === undefined) return undefined;
  if (typeof context !== "object" || context === null) context = {};
  context.store = store;
  context.files = files;
  return [found, context];
}

// The default export, or what the step left in `module.exports`.
function pickOther(namespace) {
  const common = commonModule.exports;
  const candidates = [namespace.default, namespace.default?.code, common?.code, common?.default, common];
  for (let i = 0; i < candidates.length; i++) if (typeof candidates[i] === "function") return candidates[i];
  return undefined;
}

const storeKey = (key) => {
  checkString(key, "key");
  return key;
};

// Values of the project's store, as JSON.
const store = {
  async get(key) {
    const reply = await beginPromise([undefined, STORE_GET, storeKey(key)]);
    return bufferLength(reply) === 0 ? undefined : parseJson(utf8Text(new U8(reply)));
  },
  async put(key, value) {
    const text = toJson(value);
    if (text === undefined) throw valueError("value", value, "cannot be written as JSON");
    await beginPromise([undefined, STORE_PUT, storeKey(key), text]);
  },
  async delete(key) {
    await beginPromise([undefined, STORE_DELETE, storeKey(key)]);
  },
};

const files = {
  async read(id) {
    return bufferOfReply(await beginPromise([undefined, FILE_READ, storeKey(id)]));
  },
};
