// The module `path`, of POSIX; the working directory is `/`.

// `.` and `..` resolved; `..` above the start stays unless the path is absolute.
function normalizeSegments(path, absolute) {
  const kept = [];
  for (const segment of splitText(path, "/")) {
    if (segment === "" || segment === ".") continue;
    if (segment === ".." && kept.length > 0 && kept[kept.length - 1] !== "..") kept.pop();
    else if (segment !== ".." || !absolute) push(kept, segment);
  }
  return join(kept, "/");
}

const path = {
  sep: "/",
  delimiter: ":",

  normalize(text) {
    checkString(text, "path");
    if (text === "") return ".";
    const absolute = text[0] === "/";
    let result = normalizeSegments(text, absolute);
    if (result === "" && !absolute) result = ".";
    if (result !== "" && text[text.length - 1] === "/") result += "/";
    if (result === "./" && !absolute) return "./";
    return absolute ? `/${result}` : result;
  },

  join(...parts) {
    const kept = [];
    for (const part of parts) {
      checkString(part, "path");
      if (part !== "") push(kept, part);
    }
    return kept.length === 0 ? "." : path.normalize(join(kept, "/"));
  },

  resolve(...parts) {
    let whole = "";
    for (let i = parts.length - 1; i >= 0 && whole[0] !== "/"; i--) {
      checkString(parts[i], `paths[${i}]`);
      if (parts[i] !== "") whole = whole === "" ? parts[i] : `${parts[i]}/${whole}`;
    }
    return `/${normalizeSegments(whole, true)}`;
  },

  isAbsolute(text) {
    checkString(text, "path");
    return text[0] === "/";
  },

  relative(from, to) {
    checkString(from, "from");
    checkString(to, "to");
    const one = splitText(path.resolve(from), "/").filter(Boolean);
    const other = splitText(path.resolve(to), "/").filter(Boolean);
    let same = 0;
    while (same < one.length && same < other.length && one[same] === other[same]) same++;
    return join([...one.slice(same).map(() => ".."), ...other.slice(same)], "/");
  },

  dirname(text) {
    checkString(text, "path");
    if (text === "") return ".";
    const found = exec(/^([^]*[^/])?\/(\/*)[^/]+\/*$/, text);
    if (found === null || found[1] === undefined) return text[0] === "/" ? (matches(/^\/\/[^/]/, text) ? "//" : "/") : ".";
    return found[1] + found[2];
  },

  basename(text, suffix) {
    checkString(text, "path");
    if (suffix !== undefined) checkString(suffix, "suffix");
    const name = exec(/([^/]*)\/*$/, text)[1];
    if (suffix && text === suffix) return "";
    if (suffix && name !== suffix && name.endsWith(suffix)) return sliceText(name, 0, -suffix.length);
    return name;
  },

  extname(text) {
    const name = path.basename(text);
    const dot = name.lastIndexOf(".");
    return dot <= 0 || name === ".." ? "" : sliceText(name, dot);
  },

  parse(text) {
    checkString(text, "path");
    const root = text[0] === "/" ? "/" : "";
    const base = path.basename(text);
    const ext = path.extname(text);
    let dir = path.dirname(text);
    if (dir === "." && !matches(/^\.\//, text)) dir = "";
    if (base === "") dir = root;
    return { root, dir, base, ext, name: ext === "" ? base : sliceText(base, 0, -ext.length) };
  },

  format(parts) {
    if (typeof parts !== "object" || parts === null) throw argumentError("pathObject", "of type object", parts);
    const dir = parts.dir || parts.root;
    const ext = parts.ext ? `${parts.ext[0] === "." ? "" : "."}${parts.ext}` : "";
    const base = parts.base || `${parts.name || ""}${ext}`;
    if (!dir) return base;
    return dir === parts.root ? `${dir}${base}` : `${dir}/${base}`;
  },

  toNamespacedPath: (text) => text,
};
path.posix = path;
