// `fetch`, `Request`, `Response`, and the bodies they share. The host decides where a step may connect to.

class Blob {
  #bytes;
  #type;
  constructor(parts = [], options = {}) {
    const all = [];
    for (const part of parts)
      push(all, isBlob(part) ? part.#bytes : bytesOf(part) ? copyOf(bytesOf(part)) : utf8Bytes(StringOf(part)));
    this.#bytes = all.length === 0 ? EMPTY : concatBytes(all);
    this.#type = lower(StringOf(options?.type ?? ""));
  }
  static {
    isBlob = (value) => typeof value === "object" && value !== null && #bytes in value;
    blobBytes = (blob) => blob.#bytes;
  }
  get size() {
    return this.#bytes.length;
  }
  get type() {
    return this.#type;
  }
  async text() {
    return utf8Text(this.#bytes);
  }
  async arrayBuffer() {
    return viewBuffer(copyOf(this.#bytes));
  }
  async bytes() {
    return copyOf(this.#bytes);
  }
  slice(start, end, type = "") {
    const length = this.#bytes.length;
    return new Blob([this.#bytes.subarray(bound(start, length, 0), bound(end, length, length))], { type });
  }
}
var isBlob, blobBytes;
webInterface(Blob, "Blob");

class File extends Blob {
  #name;
  constructor(parts, name, options) {
    super(parts, options);
    this.#name = StringOf(name);
  }
  get name() {
    return this.#name;
  }
}

class FormData {
  #list = [];
  append(name, value, filename) {
    push(this.#list, [wellFormed(StringOf(name)), ...formValue(value, filename)]);
  }
  set(name, value, filename) {
    this.delete(name);
    this.append(name, value, filename);
  }
  delete(name) {
    this.#list = this.#list.filter((entry) => entry[0] !== StringOf(name));
  }
  get(name) {
    return this.getAll(name)[0] ?? null;
  }
  getAll(name) {
    return this.#list.filter((entry) => entry[0] === StringOf(name)).map((entry) => entry[1]);
  }
  has(name) {
    return this.getAll(name).length > 0;
  }
  forEach(callback, self) {
    for (const [name, value] of this) apply(callback, self, [value, name, this]);
  }
  *entries() {
    for (const [name, value] of this.#list) yield [name, value];
  }
  *keys() {
    for (const [name] of this.#list) yield name;
  }
  *values() {
    for (const [, value] of this.#list) yield value;
  }

  // multipart/form-data of the HTML Standard.
  static encode(form, boundary) {
    const escape = (text) => replaceBy(/["\r\n]/g, text, (char) => encodePercent(char));
    const parts = [];
    for (const [name, value, filename] of form.#list) {
      let head = `--${boundary}\r\nContent-Disposition: form-data; name="${escape(name)}"`;
      if (filename !== undefined)
        head += `; filename="${escape(filename)}"\r\nContent-Type: ${value.type || "application/octet-stream"}`;
      push(parts, utf8Bytes(`${head}\r\n\r\n`));
      push(parts, isBlob(value) ? blobBytes(value) : utf8Bytes(replaceBy(/\r?\n|\r/g, value, "\r\n")));
      push(parts, utf8Bytes("\r\n"));
    }
    push(parts, utf8Bytes(`--${boundary}--\r\n`));
    return concatBytes(parts);
  }
}
const encodeForm = FormData.encode;
delete FormData.encode;
webInterface(FormData, "FormData");
defineProperty(FormData.prototype, ITERATOR, hidden(FormData.prototype.entries));

const formValue = (value, filename) =>
  isBlob(value) ? [value, StringOf(filename ?? value.name ?? "blob")] : [wellFormed(StringOf(value)), undefined];

// A body's bytes and type.
function extractBody(body) {
  if (typeof body === "object" && body !== null) {
    const bytes = bytesOf(body);
    if (bytes) return { bytes: copyOf(bytes), type: null };
    if (body instanceof URLSearchParams)
      return { bytes: utf8Bytes(body.toString()), type: "application/x-www-form-urlencoded;charset=UTF-8" };
    if (isBlob(body)) return { bytes: blobBytes(body), type: body.type || null };
    if (isBodyStream(body)) return { bytes: streamBytes(body), type: null };
    if (typeof body[ASYNC_ITERATOR] === "function" || typeof body.getReader === "function" || typeof body.pipe === "function")
      throw new TypeErrorClass(
        "a body in a code step is text, bytes, a Blob, a FormData, a URLSearchParams or the `body` of a request or response; " +
          "read another stream first, and pass what it gave: for await (const chunk of stream) chunks.push(chunk)",
      );
    if (body instanceof FormData) {
      const boundary = `----formdata-${toHex(randomValues(12))}`;
      return { bytes: encodeForm(body, boundary), type: `multipart/form-data; boundary=${boundary}` };
    }
  }
  return { bytes: utf8Bytes(StringOf(body)), type: "text/plain;charset=UTF-8" };
}

// What `Request` and `Response` have in common.
class Body {
  #bytes = null;
  #used = false;
  #stream = null;

  static {
    setBody = (owner, bytes) => {
      owner.#bytes = bytes;
    };
    bodyBytes = (owner) => owner.#bytes;
    takeBody = (owner) => {
      if (owner.#used || owner.#stream?.locked) throw new TypeErrorClass("Body is unusable: Body has already been read");
      if (owner.#bytes !== null) owner.#used = true;
      return owner.#bytes ?? EMPTY;
    };
  }

  get bodyUsed() {
    return this.#used;
  }
  // A stream of one piece.
  get body() {
    if (this.#bytes === null) return null;
    return (this.#stream ??= new ReadableBody(() => takeBody(this)));
  }
  async text() {
    return new TextDecoder().decode(takeBody(this));
  }
  async json() {
    return parseJson(new TextDecoder().decode(takeBody(this)));
  }
  async arrayBuffer() {
    return viewBuffer(copyOf(takeBody(this)));
  }
  async bytes() {
    return copyOf(takeBody(this));
  }
  async blob() {
    return new Blob([takeBody(this)], { type: this.headers.get("content-type") ?? "" });
  }
  async formData() {
    const type = this.headers.get("content-type") ?? "";
    if (!matches(/^application\/x-www-form-urlencoded/i, type))
      throw new TypeErrorClass("formData() reads application/x-www-form-urlencoded bodies only in a code step; use text()");
    const form = new FormData();
    for (const [name, value] of new URLSearchParams(utf8Text(takeBody(this)))) form.append(name, value);
    return form;
  }
}
var setBody, bodyBytes, takeBody;

class ReadableBody {
  #take;
  #locked = false;
  constructor(take) {
    this.#take = take;
  }
  static {
    isBodyStream = (value) => #take in value;
    streamBytes = (stream) => copyOf(stream.#take());
  }
  get locked() {
    return this.#locked;
  }
  getReader() {
    if (this.#locked) throw new TypeErrorClass("ReadableStream is locked");
    this.#locked = true;
    let done = false;
    const take = () => {
      this.#locked = false;
      return copyOf(this.#take());
    };
    const reader = {
      read: async () => {
        if (done) return { value: undefined, done: true };
        done = true;
        const value = take();
        return { value, done: false };
      },
      cancel: async () => {
        done = true;
      },
      releaseLock: () => {
        this.#locked = false;
      },
      closed: PromiseClass.resolve(),
    };
    return reader;
  }
  async cancel() {}
  async *[ASYNC_ITERATOR]() {
    const bytes = copyOf(this.#take());
    if (bytes.length > 0) yield bytes;
  }
}
var isBodyStream, streamBytes;
defineProperty(ReadableBody.prototype, TAG, { value: "ReadableStream", configurable: true });

const REDIRECTS = ["follow", "error", "manual"];
const REDIRECT_STATUS = [301, 302, 303, 307, 308];

class Request extends Body {
  #url;
  #method;
  #headers;
  #redirect;
  #signal;

  constructor(input, init = {}) {
    super();
    need(arguments, 1, "input");
    const options = init ?? {};
    const source = input instanceof Request ? input : undefined;
    const target = source ? { href: source.#url } : new URL(input);
    if (target.username || target.password)
      throw new TypeErrorClass(
        "Request cannot be constructed from a URL that includes credentials; use a connection or the Authorization header",
      );
    this.#url = target.href;
    this.#method = methodOf(options.method ?? source?.#method ?? "GET");
    this.#headers = new Headers(options.headers ?? source?.#headers);
    this.#redirect = options.redirect ?? source?.#redirect ?? "follow";
    if (!arrayHas(REDIRECTS, this.#redirect))
      throw new TypeErrorClass(`Request: redirect must be one of ${join(REDIRECTS, ", ")}`);
    this.#signal = signalOf(options, source?.#signal);
    const body = options.body;
    if (body !== undefined && body !== null) {
      const { bytes, type } = extractBody(body);
      setBody(this, bytes);
      if (type && !this.#headers.has("content-type")) this.#headers.set("content-type", type);
    } else if (source && body === undefined && bodyBytes(source) !== null) {
      setBody(this, takeBody(source));
    }
    if (bodyBytes(this) !== null && (this.#method === "GET" || this.#method === "HEAD"))
      throw new TypeErrorClass("Request with GET/HEAD method cannot have body.");
  }
  get url() {
    return this.#url;
  }
  get method() {
    return this.#method;
  }
  get headers() {
    return this.#headers;
  }
  get redirect() {
    return this.#redirect;
  }
  get signal() {
    return (this.#signal ??= newSignal());
  }
  clone() {
    if (this.bodyUsed) throw new TypeErrorClass("Request.clone: Body has already been consumed.");
    const copy = new Request(this.#url, {
      method: this.#method,
      headers: this.#headers,
      redirect: this.#redirect,
      signal: this.#signal,
    });
    setBody(copy, bodyBytes(this));
    return copy;
  }
  static signal(request) {
    return request.#signal;
  }
}
const requestSignal = Request.signal;
delete Request.signal;

function methodOf(method) {
  const text = StringOf(method);
  if (!isToken(text)) throw new TypeErrorClass(`${quote(text)} is not a valid HTTP method.`);
  const known = upper(text);
  if (arrayHas(["CONNECT", "TRACE", "TRACK"], known)) throw new TypeErrorClass(`${quote(text)} HTTP method is unsupported.`);
  return arrayHas(["DELETE", "GET", "HEAD", "OPTIONS", "POST", "PUT"], known) ? known : text;
}

// `signal`, and `timeout` in milliseconds, which some clients have and the standard has not.
function signalOf(options, inherited) {
  const signal = options.signal === undefined ? inherited : options.signal;
  if (signal !== undefined && signal !== null && !(signal instanceof AbortSignal))
    throw new TypeErrorClass("Request: signal must be an AbortSignal");
  const timeout = options.timeout;
  if (typeof timeout !== "number" || !(timeout > 0 && timeout <= LONGEST_DELAY)) return signal ?? undefined;
  const limit = AbortSignal.timeout(floor(timeout));
  return signal ? AbortSignal.any([signal, limit]) : limit;
}

class Response extends Body {
  #status;
  #statusText;
  #headers;
  #url = "";
  #redirected = false;
  #type = "default";

  constructor(body = null, init = {}) {
    super();
    const { status = 200, statusText = "", headers } = init ?? {};
    if (!isInteger(+status) || status < 200 || status > 599)
      throw new RangeErrorClass('init["status"] must be in the range of 200 to 599, inclusive.');
    this.#status = +status;
    this.#statusText = StringOf(statusText);
    this.#headers = new Headers(headers);
    if (body !== null && body !== undefined) {
      if (arrayHas([204, 205, 304], this.#status))
        throw new TypeErrorClass(`Response constructor: Invalid response status code ${this.#status}`);
      const { bytes, type } = extractBody(body);
      setBody(this, bytes);
      if (type && !this.#headers.has("content-type")) this.#headers.set("content-type", type);
    }
  }
  get status() {
    return this.#status;
  }
  get statusText() {
    return this.#statusText;
  }
  get headers() {
    return this.#headers;
  }
  get ok() {
    return this.#status >= 200 && this.#status <= 299;
  }
  get url() {
    return this.#url;
  }
  get redirected() {
    return this.#redirected;
  }
  get type() {
    return this.#type;
  }
  clone() {
    if (this.bodyUsed) throw new TypeErrorClass("Response.clone: Body has already been consumed.");
    const copy = new Response(null, { headers: this.#headers });
    copy.#status = this.#status;
    copy.#statusText = this.#statusText;
    copy.#url = this.#url;
    copy.#redirected = this.#redirected;
    copy.#type = this.#type;
    setBody(copy, bodyBytes(this));
    return copy;
  }
  static json(value, init = {}) {
    const text = toJson(value);
    if (text === undefined) throw new TypeErrorClass("Value is not JSON serializable");
    const headers = new Headers(init.headers);
    if (!headers.has("content-type")) headers.set("content-type", "application/json");
    return new Response(text, { ...init, headers });
  }
  static error() {
    const response = new Response();
    response.#status = 0;
    response.#type = "error";
    return response;
  }
  static redirect(url, status = 302) {
    if (!arrayHas(REDIRECT_STATUS, status)) throw new RangeErrorClass(`Invalid status code ${status}`);
    return new Response(null, { status, headers: { location: new URL(url).href } });
  }
  [INSPECT_CUSTOM](depth, options) {
    const { status, statusText, headers, ok, url, redirected, type, bodyUsed } = this;
    return `Response ${inspect({ status, statusText, headers, bodyUsed, ok, redirected, type, url }, { ...options, depth })}`;
  }
  static {
    // From what the host wrote: the length of a JSON head, the head, the body.
    responseOf = (reply) => {
      const headLength = new View(reply).getUint32(0, true);
      const head = parseJson(utf8Text(new U8(reply, 4, headLength)));
      const response = new Response();
      response.#status = head.status;
      response.#statusText = head.statusText ?? "";
      response.#url = head.url;
      response.#redirected = Boolean(head.redirected);
      response.#type = "basic";
      for (const [name, value] of head.headers) response.#headers.append(name, value);
      if (!arrayHas([101, 204, 205, 304], head.status)) setBody(response, new U8(reply, 4 + headLength));
      return response;
    };
  }
}
var responseOf;
for (const [Class, name] of [
  [Body, "Body"],
  [Request, "Request"],
  [Response, "Response"],
])
  webInterface(Class, name);

// The host writes the length itself, of what it sends. One that was given must be right, as in Node.
function withoutLength(headers, bytes) {
  const length = bytes === null ? 0 : bytes.length;
  const others = [];
  for (const header of headers) {
    if (header[0] !== "content-length") push(others, header);
    else if (header[1] !== StringOf(length))
      throw new TypeErrorClass(
        `fetch failed: the header Content-Length says ${header[1]}, and the body has ${length} bytes; leave the header out`,
      );
  }
  return others;
}

async function fetch(input, init = undefined) {
  const request = new Request(input, init);
  const signal = requestSignal(request);
  if (signal?.aborted) throw signal.reason;
  const headers = withoutLength([...request.headers], bodyBytes(request));
  const head = toJson({ url: request.url, method: request.method, headers, redirect: request.redirect });
  const call = [undefined, FETCH, head];
  if (bodyBytes(request) !== null) call[3] = takeBody(request);
  return new PromiseClass((resolve, reject) => {
    let forget = () => {};
    const id = begin(call, (error, reply) => {
      forget();
      if (error) return reject(error);
      const response = responseOf(reply);
      if (request.redirect === "error" && arrayHas(REDIRECT_STATUS, response.status))
        return reject(new TypeErrorClass('fetch failed: the answer is a redirect, and `redirect` is "error"'));
      resolve(response);
    });
    if (signal) {
      forget = onAbort(signal, () => {
        cancel(id);
        reject(signal.reason);
      });
    }
  });
}
