// `Headers` of the Fetch Standard.

const isToken = (text) => matches(/^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/, text);

class Headers {
  // Lower-case name → its values.
  #map = new MapClass();

  constructor(init = undefined) {
    if (init === undefined || init === null) {
      if (init === null) throw new TypeErrorClass("Headers: the argument must be an object");
      return;
    }
    if (typeof init !== "object" && typeof init !== "function")
      throw new TypeErrorClass("Headers: the argument must be an object");
    if (#map in init) {
      mapForEach(init.#map, (values, name) => mapSet(this.#map, name, sliceArray(values)));
    } else if (typeof init[ITERATOR] === "function") {
      for (const pair of init) {
        const both = typeof pair === "object" && pair !== null ? [...pair] : [];
        if (both.length !== 2) throw new TypeErrorClass("Headers: each entry must be a pair of name and value");
        this.append(both[0], both[1]);
      }
    } else {
      for (const key of ownKeys(init)) {
        if (typeof key === "symbol") throw new TypeErrorClass("Headers: a name must not be a symbol");
        if (isOwnEnumerable(init, key)) this.append(key, init[key]);
      }
    }
  }

  append(name, value) {
    const key = headerName(name);
    const text = headerValue(name, value);
    const values = mapGet(this.#map, key);
    if (values) push(values, text);
    else mapSet(this.#map, key, [text]);
  }
  set(name, value) {
    mapSet(this.#map, headerName(name), [headerValue(name, value)]);
  }
  delete(name) {
    mapDelete(this.#map, headerName(name));
  }
  has(name) {
    return mapHas(this.#map, headerName(name));
  }
  get(name) {
    const values = mapGet(this.#map, headerName(name));
    return values ? join(values, ", ") : null;
  }
  getSetCookie() {
    return sliceArray(mapGet(this.#map, "set-cookie") ?? []);
  }

  // By name; each cookie apart.
  #sorted() {
    const names = [];
    mapForEach(this.#map, (_, name) => push(names, name));
    names.sort();
    const pairs = [];
    for (const name of names) {
      const values = mapGet(this.#map, name);
      if (name === "set-cookie") for (const value of values) push(pairs, [name, value]);
      else push(pairs, [name, join(values, ", ")]);
    }
    return pairs;
  }
  forEach(callback, self = undefined) {
    checkFunction(callback, "callback");
    for (const [name, value] of this.#sorted()) apply(callback, self, [value, name, this]);
  }
  *entries() {
    yield* this.#sorted();
  }
  *keys() {
    for (const [name] of this.#sorted()) yield name;
  }
  *values() {
    for (const [, value] of this.#sorted()) yield value;
  }
  [INSPECT_CUSTOM](depth, options) {
    const shown = {};
    for (const [name, value] of this.#sorted()) shown[name] = value;
    return `Headers ${inspect(shown, options)}`;
  }
}
webInterface(Headers, "Headers");
defineProperty(Headers.prototype, ITERATOR, hidden(Headers.prototype.entries));

function headerName(name) {
  const text = StringOf(name);
  if (!isToken(text)) throw new TypeErrorClass(`Headers: ${quote(text)} is no name of a header`);
  return lower(text);
}

function headerValue(name, value) {
  const text = replaceBy(/^[\t\n\r ]+|[\t\n\r ]+$/g, StringOf(value), "");
  // The text itself may be what must not be shown.
  if (matches(/[\0\r\n]|[^\0-\xff]/, text))
    throw new TypeErrorClass(`Headers: the value of ${quote(StringOf(name))} holds a character that headers cannot have`);
  return text;
}
