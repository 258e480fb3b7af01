// Deep equality: `util.isDeepStrictEqual`, and the loose and strict comparisons of `assert`.

function deepEqual(left, right, strict, pairs = []) {
  if (left === right) return left !== 0 || !strict || is(left, right);
  if (typeof left !== "object" || typeof right !== "object" || left === null || right === null) {
    if (strict) return typeof left === "number" && left !== left && right !== right;
    if (left === null || typeof left !== "object") {
      if (right === null || typeof right !== "object") return left == right || (left !== left && right !== right);
    }
    return false;
  }
  if (strict && getPrototypeOf(left) !== getPrototypeOf(right)) return false;
  if (isArray(left) !== isArray(right)) return false;
  const kind = classOf(left);
  if (kind !== classOf(right) || tagText(left) !== tagText(right)) return false;
  if (!sameContent(kind, left, right, strict)) return false;

  const keys = comparedKeys(left, strict, kind);
  const others = comparedKeys(right, strict, kind);
  if (keys.length !== others.length) return false;
  for (let i = 0; i < keys.length; i++) if (!(strict ? isOwnEnumerable(right, keys[i]) : hasOwn(right, keys[i]))) return false;

  // A cycle is equal if everything around it is.
  for (let i = 0; i < pairs.length; i += 2) if (pairs[i] === left) return pairs[i + 1] === right;
  push(pairs, left, right);
  try {
    if (kind === "Set" && !sameSet(left, right, strict, pairs)) return false;
    if (kind === "Map" && !sameMap(left, right, strict, pairs)) return false;
    for (let i = 0; i < keys.length; i++) if (!deepEqual(left[keys[i]], right[keys[i]], strict, pairs)) return false;
    return true;
  } finally {
    pairs.length -= 2;
  }
}

function comparedKeys(value, strict, kind) {
  const keys = [];
  for (const key of ownKeys(value)) {
    if (typeof key === "symbol" && !strict) continue;
    if (kind === "TypedArray" && isIndexKey(key)) continue;
    if (isOwnEnumerable(value, key)) push(keys, key);
  }
  return keys;
}

function sameContent(kind, left, right, strict) {
  switch (kind) {
    case "Date":
      return is(dateTime(left), dateTime(right));
    case "RegExp":
      return regExpText(left) === regExpText(right) && left.lastIndex === right.lastIndex;
    case "Error":
      if (left.message !== right.message || left.name !== right.name) return false;
      return !strict || (deepEqual(left.cause, right.cause, strict) && deepEqual(left.errors, right.errors, strict));
    case "Boolean":
    case "Number":
    case "String":
    case "BigInt":
    case "Symbol": {
      const primitive = primitiveOf(kind);
      return is(primitive(left), primitive(right));
    }
    case "TypedArray":
      if (!strict && matches(/^Float/, tagOfView(left))) {
        if (left.length !== right.length) return false;
        for (let i = 0; i < left.length; i++)
          if (left[i] !== right[i] && !(left[i] !== left[i] && right[i] !== right[i])) return false;
        return true;
      }
      return compareBytes(bytesOf(left), bytesOf(right)) === 0;
    case "DataView":
    case "ArrayBuffer":
      return compareBytes(bytesOf(left), bytesOf(right)) === 0;
    case "Set":
      return setSize(left) === setSize(right);
    case "Map":
      return mapSize(left) === mapSize(right);
    case "Function":
    case "Promise":
    case "WeakMap":
    case "WeakSet":
      return false;
  }
  return !isArray(left) || left.length === right.length;
}

function sameSet(left, right, strict, pairs) {
  const rest = [];
  setForEach(right, (item) => push(rest, item));
  let same = true;
  setForEach(left, (item) => {
    if (!same) return;
    const at = rest.findIndex((other) => deepEqual(item, other, strict, pairs));
    if (at < 0) same = false;
    else splice(rest, at, 1);
  });
  return same;
}

function sameMap(left, right, strict, pairs) {
  const rest = [];
  mapForEach(right, (item, key) => push(rest, [key, item]));
  let same = true;
  mapForEach(left, (item, key) => {
    if (!same) return;
    const at = rest.findIndex((other) => deepEqual(key, other[0], strict, pairs) && deepEqual(item, other[1], strict, pairs));
    if (at < 0) same = false;
    else splice(rest, at, 1);
  });
  return same;
}
