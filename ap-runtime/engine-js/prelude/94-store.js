// The key-value store: `ctx.store`. What a step writes is there for others once the step has succeeded, all of it or nothing.

const store = freeze({
  // The value under `key`, or `null`.
  get(key, scope) {
    return storeCall(STORE_GET, key, scope, undefined, (reply) =>
      bufferLength(reply) === 0 ? null : parseJson(utf8Text(new U8(reply))),
    );
  },
  put(key, value, scope) {
    return storeCall(STORE_PUT, key, scope, () => jsonOf(value), () => value);
  },
  delete(key, scope) {
    return storeCall(STORE_DELETE, key, scope, undefined, () => undefined);
  },
});

function storeCall(operation, key, scope, json, done) {
  return new PromiseClass((resolve, reject) => {
    checkString(key, "key");
    if (scope === undefined) scope = "FLOW";
    if (scope !== "FLOW" && scope !== "PROJECT") throw valueError("scope", scope, "is 'FLOW' or 'PROJECT'");
    const call = json === undefined ? [undefined, operation, key, scope] : [undefined, operation, key, json(), scope];
    begin(call, (error, reply) => {
      if (error) reject(error);
      else resolve(done(reply));
    });
  });
}

function jsonOf(value) {
  const json = toJson(value);
  if (typeof json !== "string") throw valueError("value", value, "is nothing that JSON can hold; use delete() to remove a key");
  return json;
}
