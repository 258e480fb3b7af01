// The modules `querystring`, and of `url` the functions that came before `URL`.

function queryEscape(value) {
  let text;
  if (typeof value === "string") text = value;
  else text = typeof value === "object" ? StringOf(value) : `${value}`;
  return encodePercent(text);
}

const queryPrimitive = (value) => {
  if (typeof value === "string") return value;
  if (typeof value === "number") return isFiniteNumber(value) ? `${value}` : "";
  return typeof value === "bigint" || typeof value === "boolean" ? `${value}` : "";
};

const querystring = {
  escape: queryEscape,
  unescape: (text) => percentDecode(StringOf(text)),

  stringify(object, separator = "&", equals = "=", options = undefined) {
    if (typeof object !== "object" || object === null) return "";
    const encode = typeof options?.encodeURIComponent === "function" ? options.encodeURIComponent : querystring.escape;
    const parts = [];
    for (const key of objectKeys(object)) {
      const name = encode(key);
      const value = object[key];
      if (isArray(value)) for (const item of value) push(parts, name + (equals || "=") + encode(queryPrimitive(item)));
      else push(parts, name + (equals || "=") + encode(queryPrimitive(value)));
    }
    return join(parts, separator || "&");
  },

  parse(text, separator = "&", equals = "=", options = undefined) {
    const result = create(null);
    if (typeof text !== "string" || text === "") return result;
    const decode = typeof options?.decodeURIComponent === "function" ? options.decodeURIComponent : querystring.unescape;
    const safe = (part) => {
      const spaced = replaceBy(/\+/g, part, " ");
      try {
        return decode(spaced);
      } catch {
        return percentDecode(spaced);
      }
    };
    const sign = equals || "=";
    const parts = splitText(text, separator || "&");
    const most = typeof options?.maxKeys === "number" ? options.maxKeys : 1000;
    let count = 0;
    for (const part of parts) {
      if (part === "") continue;
      if (most > 0 && count++ >= most) break;
      const at = indexOfText(part, sign);
      const name = safe(at < 0 ? part : sliceText(part, 0, at));
      const value = at < 0 ? "" : safe(sliceText(part, at + sign.length));
      if (!hasOwn(result, name)) result[name] = value;
      else if (isArray(result[name])) push(result[name], value);
      else result[name] = [result[name], value];
    }
    return result;
  },
};
querystring.encode = querystring.stringify;
querystring.decode = querystring.parse;

// `Url` objects of the legacy parser, by a plain grammar.
function parseLegacyUrl(text, parseQuery = false, slashesDenoteHost = false) {
  if (typeof text === "object" && text !== null && text instanceof LegacyUrl) return text;
  checkString(text, "url");
  const url = new LegacyUrl();
  let rest = trim(text);
  const fragment = indexOfText(rest, "#");
  if (fragment >= 0) {
    url.hash = sliceText(rest, fragment);
    rest = sliceText(rest, 0, fragment);
  }
  const query = indexOfText(rest, "?");
  if (query >= 0) {
    url.search = sliceText(rest, query);
    url.query = sliceText(rest, query + 1);
    rest = sliceText(rest, 0, query);
  } else if (parseQuery) {
    url.search = "";
    url.query = "";
  }
  if (parseQuery) url.query = querystring.parse(url.query);
  const scheme = exec(/^([a-z][a-z0-9.+-]*:)/i, rest);
  if (scheme) {
    url.protocol = lower(scheme[1]);
    rest = sliceText(rest, scheme[1].length);
  }
  const web = matches(/^(?:https?|ftp|file|wss?|gopher):$/, url.protocol ?? "");
  if (sliceText(rest, 0, 2) === "//" && (scheme || slashesDenoteHost)) {
    url.slashes = true;
    const [, authority, path] = exec(/^\/\/([^/\\]*)(.*)$/s, rest);
    rest = path;
    const at = authority.lastIndexOf("@");
    if (at >= 0) url.auth = percentDecode(sliceText(authority, 0, at));
    const host = lower(sliceText(authority, at + 1));
    const [, hostname, port] = exec(/^(.*?)(?::(\d*))?$/, host);
    if (port) url.port = port;
    url.hostname = replaceBy(/^\[|\]$/g, hostname, "");
    url.host = port ? `${hostname}:${port}` : hostname;
  }
  if (rest !== "")
    url.pathname = replaceBy(/[ "<>`{}|^]/g, replaceBy(/\\/g, rest, web ? "/" : "\\"), (char) => encodePercent(char));
  if (web && url.slashes && url.hostname && !url.pathname) url.pathname = "/";
  if (url.pathname || url.search) url.path = (url.pathname ?? "") + (url.search ?? "");
  url.href = formatUrl(url);
  return url;
}

class LegacyUrl {
  protocol = null;
  slashes = null;
  auth = null;
  host = null;
  port = null;
  hostname = null;
  hash = null;
  search = null;
  query = null;
  pathname = null;
  path = null;
  href = "";
  format() {
    return formatUrl(this);
  }
}
defineProperty(LegacyUrl, "name", { value: "Url" });

function formatUrl(url, options) {
  if (typeof url === "string") return parseLegacyUrl(url).href;
  if (url instanceof URL) {
    const { auth = true, fragment = true, search = true } = options ?? {};
    const user = auth && (url.username || url.password) ? `${url.username}${url.password ? `:${url.password}` : ""}@` : "";
    const slashes = url.host || url.protocol === "file:" ? "//" : "";
    return `${url.protocol}${slashes}${user}${url.host}${url.pathname}${search ? url.search : ""}${fragment ? url.hash : ""}`;
  }
  if (typeof url !== "object" || url === null) throw argumentError("urlObject", "one of type object or string", url);
  let protocol = url.protocol || "";
  if (protocol && protocol[protocol.length - 1] !== ":") protocol += ":";
  const auth = url.auth ? `${replaceBy(/%3A/i, encodePercent(url.auth), ":")}@` : "";
  let host = "";
  if (url.host) host = auth + url.host;
  else if (url.hostname)
    host = auth + (indexOfText(url.hostname, ":") >= 0 ? `[${url.hostname}]` : url.hostname) + (url.port ? `:${url.port}` : "");
  let search = url.search || "";
  if (!search && typeof url.query === "object" && url.query !== null) search = querystring.stringify(url.query);
  if (search && search[0] !== "?") search = `?${search}`;
  let hash = url.hash || "";
  if (hash && hash[0] !== "#") hash = `#${hash}`;
  let pathname = replaceBy(/[?#]/g, url.pathname || "", (char) => encodePercent(char));
  if (url.slashes || (matches(/^(?:https?|ftp|file|wss?|gopher):$/, protocol) && host !== "")) {
    if (pathname && pathname[0] !== "/") pathname = `/${pathname}`;
    host = `//${host}`;
  }
  return protocol + host + pathname + replaceBy(/#/g, search, "%23") + hash;
}

const urlModule = {
  URL,
  URLSearchParams,
  Url: LegacyUrl,
  parse: parseLegacyUrl,
  format: formatUrl,
  resolve(from, to) {
    const base = new URL(from, "resolve://host/");
    const url = new URL(to, base);
    if (url.protocol !== "resolve:") return url.href;
    const whole = `${url.pathname}${url.search}${url.hash}`;
    const rooted = from[0] === "/" || to[0] === "/";
    return rooted ? whole : sliceText(whole, 1);
  },
  urlToHttpOptions: ({ protocol, hostname, hash, search, pathname, href, port, username, password }) => ({
    protocol,
    hostname,
    hash,
    search,
    pathname,
    path: `${pathname}${search}`,
    href,
    ...(port !== "" && { port: NumberOf(port) }),
    ...((username || password) && { auth: `${percentDecode(username)}:${percentDecode(password)}` }),
  }),
  domainToASCII: (domain) => hostOf(domain),
  domainToUnicode: (domain) => hostOf(domain),
};

function hostOf(domain) {
  try {
    return new URL(`https://${domain}`).hostname;
  } catch {
    return "";
  }
}
