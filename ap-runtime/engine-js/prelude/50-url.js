// `URL` and `URLSearchParams`. The host parses, by the WHATWG standard.

const encodePercent = encodeURIComponent;
const decodePercent = decodeURIComponent;

function formEncode(text) {
  return replaceBy(/%20|[!'()~]/g, encodePercent(wellFormed(text)), (char) =>
    char === "%20" ? "+" : `%${upper(numberText(charCode(char, 0), 16))}`,
  );
}

function formDecode(text) {
  const spaced = replaceBy(/\+/g, text, " ");
  return indexOfText(spaced, "%") < 0 ? wellFormed(spaced) : percentDecode(spaced);
}

// Sequences that are no UTF-8 become U+FFFD; a stray `%` stays.
function percentDecode(text) {
  try {
    return decodePercent(wellFormed(text));
  } catch {
    const bytes = utf8Bytes(text);
    let to = 0;
    for (let i = 0; i < bytes.length; i++) {
      let byte = bytes[i];
      if (byte === 37 && i + 2 < bytes.length) {
        const pair = fromCharCode(bytes[i + 1], bytes[i + 2]);
        if (matches(/^[0-9a-fA-F]{2}$/, pair)) {
          byte = parseInt(pair, 16);
          i += 2;
        }
      }
      bytes[to++] = byte;
    }
    return utf8Text(bytes.subarray(0, to));
  }
}

// Set while a URL makes its own parameters.
let paramsOwner = null;
let replaceParams;

class URLSearchParams {
  // Names and values in turn.
  #list = [];
  #changed = null;

  constructor(init = undefined) {
    this.#changed = paramsOwner;
    paramsOwner = null;
    if (init === undefined || init === null) return;
    if (typeof init === "object" || typeof init === "function") {
      const iterate = init[ITERATOR];
      if (iterate === undefined || iterate === null) {
        for (const key of ownKeys(init)) {
          if (typeof key !== "string") continue;
          if (isOwnEnumerable(init, key)) push(this.#list, wellFormed(key), wellFormed(StringOf(init[key])));
        }
        return;
      }
      if (typeof iterate !== "function")
        throw nodeError(TypeErrorClass, "ERR_ARG_NOT_ITERABLE", "Query pairs must be iterable");
      for (const pair of init) {
        if (typeof pair !== "object" || pair === null || typeof pair[ITERATOR] !== "function") throw pairError();
        const both = [...pair];
        if (both.length !== 2) throw pairError();
        push(this.#list, wellFormed(StringOf(both[0])), wellFormed(StringOf(both[1])));
      }
      return;
    }
    this.#parse(StringOf(init));
  }

  #parse(text) {
    this.#list = [];
    const query = text[0] === "?" ? sliceText(text, 1) : text;
    if (query === "") return;
    const parts = splitText(query, "&");
    for (let i = 0; i < parts.length; i++) {
      const part = parts[i];
      if (part === "") continue;
      const equals = indexOfText(part, "=");
      push(
        this.#list,
        formDecode(equals < 0 ? part : sliceText(part, 0, equals)),
        equals < 0 ? "" : formDecode(sliceText(part, equals + 1)),
      );
    }
  }

  #touch() {
    if (this.#changed) this.#changed(this.toString());
  }

  static {
    replaceParams = (params, text) => params.#parse(text);
  }

  get size() {
    return this.#list.length / 2;
  }

  append(name, value) {
    need(arguments, 2, "name", "value");
    push(this.#list, wellFormed(StringOf(name)), wellFormed(StringOf(value)));
    this.#touch();
  }
  delete(name, value) {
    need(arguments, 1, "name");
    const key = StringOf(name);
    const wanted = value === undefined ? undefined : StringOf(value);
    for (let i = 0; i < this.#list.length; ) {
      if (this.#list[i] === key && (wanted === undefined || this.#list[i + 1] === wanted)) splice(this.#list, i, 2);
      else i += 2;
    }
    this.#touch();
  }
  get(name) {
    need(arguments, 1, "name");
    const key = StringOf(name);
    for (let i = 0; i < this.#list.length; i += 2) if (this.#list[i] === key) return this.#list[i + 1];
    return null;
  }
  getAll(name) {
    need(arguments, 1, "name");
    const key = StringOf(name);
    const values = [];
    for (let i = 0; i < this.#list.length; i += 2) if (this.#list[i] === key) push(values, this.#list[i + 1]);
    return values;
  }
  has(name, value) {
    need(arguments, 1, "name");
    const key = StringOf(name);
    const wanted = value === undefined ? undefined : StringOf(value);
    for (let i = 0; i < this.#list.length; i += 2)
      if (this.#list[i] === key && (wanted === undefined || this.#list[i + 1] === wanted)) return true;
    return false;
  }
  set(name, value) {
    need(arguments, 2, "name", "value");
    const key = wellFormed(StringOf(name));
    const text = wellFormed(StringOf(value));
    let found = false;
    for (let i = 0; i < this.#list.length; ) {
      if (this.#list[i] !== key) i += 2;
      else if (!found) {
        found = true;
        this.#list[i + 1] = text;
        i += 2;
      } else splice(this.#list, i, 2);
    }
    if (!found) push(this.#list, key, text);
    this.#touch();
  }
  sort() {
    const pairs = [];
    for (let i = 0; i < this.#list.length; i += 2) push(pairs, [this.#list[i], this.#list[i + 1]]);
    pairs.sort((left, right) => (left[0] < right[0] ? -1 : left[0] > right[0] ? 1 : 0));
    this.#list = [];
    for (const pair of pairs) push(this.#list, pair[0], pair[1]);
    this.#touch();
  }
  forEach(callback, self = undefined) {
    checkFunction(callback, "callback");
    for (let i = 0; i < this.#list.length; i += 2) apply(callback, self, [this.#list[i + 1], this.#list[i], this]);
  }
  *entries() {
    for (let i = 0; i < this.#list.length; i += 2) yield [this.#list[i], this.#list[i + 1]];
  }
  *keys() {
    for (let i = 0; i < this.#list.length; i += 2) yield this.#list[i];
  }
  *values() {
    for (let i = 0; i < this.#list.length; i += 2) yield this.#list[i + 1];
  }
  toString() {
    const parts = [];
    for (let i = 0; i < this.#list.length; i += 2) push(parts, `${formEncode(this.#list[i])}=${formEncode(this.#list[i + 1])}`);
    return join(parts, "&");
  }
  [INSPECT_CUSTOM](depth, options) {
    if (depth < 0) return "[Object]";
    if (this.#list.length === 0) return "URLSearchParams {}";
    const parts = [];
    for (let i = 0; i < this.#list.length; i += 2) push(parts, `${quote(this.#list[i])} => ${quote(this.#list[i + 1])}`);
    return `URLSearchParams { ${join(parts, ", ")} }`;
  }
}
webInterface(URLSearchParams, "URLSearchParams");
defineProperty(URLSearchParams.prototype, ITERATOR, hidden(URLSearchParams.prototype.entries));

const pairError = () =>
  nodeError(TypeErrorClass, "ERR_INVALID_TUPLE", "Each query pair must be an iterable [name, value] tuple");

function need(given, count, ...names) {
  if (given.length >= count) return;
  const list = count === 1 ? `"${names[0]}" argument` : `"${names[0]}" and "${names[1]}" arguments`;
  throw nodeError(TypeErrorClass, "ERR_MISSING_ARGS", `The ${list} must be specified`);
}

class URL {
  #parts;
  #params = undefined;

  constructor(input, base = undefined) {
    need(arguments, 1, "url");
    const baseText = base === undefined ? "" : wellFormed(`${base}`);
    if (base !== undefined && baseText === "") throw invalidUrl(`${input}`, baseText);
    this.#parts = parseUrl(wellFormed(`${input}`), baseText);
  }

  static canParse(input, base = undefined) {
    try {
      return Boolean(new URL(input, base));
    } catch {
      return false;
    }
  }
  static parse(input, base = undefined) {
    try {
      return new URL(input, base);
    } catch {
      return null;
    }
  }

  #set(part, value) {
    let reply;
    try {
      reply = sync([URL_SET, this.#parts.href, part, wellFormed(`${value}`)]);
    } catch {
      return; // what is not valid changes nothing
    }
    this.#parts = parseJson(utf8Text(new U8(reply)));
  }

  get href() {
    return this.#parts.href;
  }
  set href(value) {
    this.#parts = parseUrl(wellFormed(`${value}`), "");
    if (this.#params) replaceParams(this.#params, this.#parts.search);
  }
  get origin() {
    return this.#parts.origin;
  }
  get protocol() {
    return this.#parts.protocol;
  }
  set protocol(value) {
    this.#set("protocol", value);
  }
  get username() {
    return this.#parts.username;
  }
  set username(value) {
    this.#set("username", value);
  }
  get password() {
    return this.#parts.password;
  }
  set password(value) {
    this.#set("password", value);
  }
  get host() {
    return this.#parts.host;
  }
  set host(value) {
    this.#set("host", value);
  }
  get hostname() {
    return this.#parts.hostname;
  }
  set hostname(value) {
    this.#set("hostname", value);
  }
  get port() {
    return this.#parts.port;
  }
  set port(value) {
    this.#set("port", value);
  }
  get pathname() {
    return this.#parts.pathname;
  }
  set pathname(value) {
    this.#set("pathname", value);
  }
  get search() {
    return this.#parts.search;
  }
  set search(value) {
    this.#set("search", value);
    if (this.#params) replaceParams(this.#params, this.#parts.search);
  }
  get hash() {
    return this.#parts.hash;
  }
  set hash(value) {
    this.#set("hash", value);
  }
  get searchParams() {
    if (!this.#params) {
      paramsOwner = (text) => this.#set("search", text);
      this.#params = new URLSearchParams(this.#parts.search);
    }
    return this.#params;
  }
  toString() {
    return this.#parts.href;
  }
  toJSON() {
    return this.#parts.href;
  }

  [INSPECT_CUSTOM](depth, options) {
    if (depth < 0) return "[Object]";
    const shown = create({ constructor: URL });
    for (const name of [
      "href",
      "origin",
      "protocol",
      "username",
      "password",
      "host",
      "hostname",
      "port",
      "pathname",
      "search",
      "searchParams",
      "hash",
    ])
      shown[name] = this[name];
    return `URL ${inspect(assign({}, shown), options)}`;
  }
}
webInterface(URL, "URL");

function parseUrl(input, base) {
  let reply;
  try {
    reply = sync([URL_PARSE, input, base]);
  } catch (error) {
    if (error instanceof DOMExceptionClass) throw error;
    throw invalidUrl(input, base === "" ? undefined : base);
  }
  return parseJson(utf8Text(new U8(reply)));
}

function invalidUrl(input, base) {
  const error = nodeError(TypeErrorClass, "ERR_INVALID_URL", "Invalid URL");
  error.input = input;
  if (base !== undefined) error.base = base;
  return error;
}
