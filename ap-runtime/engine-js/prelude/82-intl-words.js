// Order, plurals, lists and spans of time, as en-US has them.

const ORDER = "_-,;:!?.'\"()[]{}@*/\\&#%`^+<=>|~$";

// Blanks, punctuation, digits, letters; then accents; then small letters before capitals.
function collate(left, right, numericOrder = false, sensitivity = "variant") {
  const base = (text) => lower(replaceBy(/[\u0300-\u036f]/g, text.normalize("NFD"), ""));
  const rank = (char) => {
    if (char === undefined) return -1;
    if (matches(/\s/, char)) return 1;
    const punctuation = indexOfText(ORDER, char);
    if (punctuation >= 0) return 10 + punctuation;
    const code = char.codePointAt(0);
    if (code >= 48 && code <= 57) return 1000 + code;
    return matches(/\p{L}/u, char) ? 10000 + code : 100 + min(code, 800);
  };
  const [one, other] = [base(left), base(right)];
  let i = 0;
  let j = 0;
  while (i < one.length || j < other.length) {
    if (numericOrder && matches(/\d/, one[i] ?? "") && matches(/\d/, other[j] ?? "")) {
      const [a, b] = [exec(/^\d+/, sliceText(one, i))[0], exec(/^\d+/, sliceText(other, j))[0]];
      const [x, y] = [BigInt(a), BigInt(b)];
      if (x !== y) return x < y ? -1 : 1;
      i += a.length;
      j += b.length;
      continue;
    }
    const difference = rank(one[i++]) - rank(other[j++]);
    if (difference !== 0) return difference < 0 ? -1 : 1;
  }
  if (sensitivity === "base") return 0;
  if (sensitivity !== "case") {
    const [x, y] = [lower(left.normalize("NFD")), lower(right.normalize("NFD"))];
    if (x !== y) return x < y ? -1 : 1;
  }
  if (sensitivity === "accent") return 0;
  const [x, y] = [left.normalize("NFC"), right.normalize("NFC")];
  for (let k = 0; k < min(x.length, y.length); k++) if (x[k] !== y[k]) return x[k] === lower(x[k]) ? -1 : 1;
  return 0;
}

class Collator {
  #numeric;
  #sensitivity;
  constructor(locales, options = {}) {
    checkLocales(locales);
    this.#numeric = Boolean(options.numeric);
    this.#sensitivity = oneOf(options, "sensitivity", ["base", "accent", "case", "variant"], "variant");
  }
  static supportedLocalesOf = supportedLocalesOf;
  get compare() {
    return (left, right) => collate(StringOf(left), StringOf(right), this.#numeric, this.#sensitivity);
  }
  resolvedOptions() {
    return {
      locale: LOCALE,
      usage: "sort",
      sensitivity: this.#sensitivity,
      ignorePunctuation: false,
      collation: "default",
      numeric: this.#numeric,
      caseFirst: "false",
    };
  }
}

class PluralRules {
  #ordinal;
  constructor(locales, options = {}) {
    checkLocales(locales);
    this.#ordinal = oneOf(options, "type", ["cardinal", "ordinal"], "cardinal") === "ordinal";
  }
  static supportedLocalesOf = supportedLocalesOf;
  select(number) {
    const value = abs(NumberOf(number));
    if (!this.#ordinal) return value === 1 ? "one" : "other";
    const [last, tens] = [value % 10, value % 100];
    if (last === 1 && tens !== 11) return "one";
    if (last === 2 && tens !== 12) return "two";
    return last === 3 && tens !== 13 ? "few" : "other";
  }
  resolvedOptions() {
    return {
      locale: LOCALE,
      type: this.#ordinal ? "ordinal" : "cardinal",
      pluralCategories: this.#ordinal ? ["few", "one", "two", "other"] : ["one", "other"],
    };
  }
}

class ListFormat {
  #type;
  #style;
  constructor(locales, options = {}) {
    checkLocales(locales);
    this.#type = oneOf(options, "type", ["conjunction", "disjunction", "unit"], "conjunction");
    this.#style = oneOf(options, "style", ["long", "short", "narrow"], "long");
  }
  static supportedLocalesOf = supportedLocalesOf;
  format(list) {
    const items = [...list];
    const word = this.#type === "disjunction" ? "or" : this.#style === "long" ? "and" : this.#style === "short" ? "&" : "";
    const last = items.pop();
    if (items.length === 0) return last ?? "";
    if (this.#type === "unit") {
      return this.#style === "narrow" ? join([...items, last], " ") : join([...items, last], ", ");
    }
    const glue = word === "" ? ", " : items.length === 1 ? ` ${word} ` : `, ${word} `;
    return join(items, ", ") + glue + last;
  }
}

const UNITS = ["second", "minute", "hour", "day", "week", "month", "quarter", "year"];
const AUTO = {
  second: { 0: "now" },
  minute: { 0: "this minute" },
  hour: { 0: "this hour" },
  day: { "-1": "yesterday", 0: "today", 1: "tomorrow" },
};

class RelativeTimeFormat {
  #auto;
  constructor(locales, options = {}) {
    checkLocales(locales);
    this.#auto = oneOf(options, "numeric", ["always", "auto"], "always") === "auto";
  }
  static supportedLocalesOf = supportedLocalesOf;
  format(value, unit) {
    const name = replaceBy(/s$/, StringOf(unit), "");
    if (!arrayHas(UNITS, name)) throw new RangeErrorClass(`Invalid unit argument for format() '${StringOf(unit)}'`);
    const number = NumberOf(value);
    if (!isFiniteNumber(number))
      throw new RangeErrorClass("Value need to be finite number for Intl.RelativeTimeFormat.prototype.format()");
    if (this.#auto) {
      const word = AUTO[name] ? AUTO[name][number] : { "-1": `last ${name}`, 0: `this ${name}`, 1: `next ${name}` }[number];
      if (word) return word;
    }
    const amount = new NumberFormat().format(abs(number));
    const text = `${amount} ${name}${abs(number) === 1 ? "" : "s"}`;
    return number < 0 || is(number, -0) ? `${text} ago` : `in ${text}`;
  }
}
