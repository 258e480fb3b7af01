// Numbers as en-US writes them.

const SYMBOLS = {
  USD: "$",
  EUR: "€",
  GBP: "£",
  JPY: "¥",
  INR: "₹",
  CNY: "CN¥",
  KRW: "₩",
  BRL: "R$",
  CAD: "CA$",
  AUD: "A$",
  MXN: "MX$",
  NZD: "NZ$",
  ILS: "₪",
  VND: "₫",
  TWD: "NT$",
  HKD: "HK$",
  PHP: "₱",
  XAF: "FCFA",
  XOF: "F CFA",
};
const MINOR_UNITS = {
  JPY: 0,
  KRW: 0,
  VND: 0,
  CLP: 0,
  ISK: 0,
  XAF: 0,
  XOF: 0,
  XPF: 0,
  UGX: 0,
  PYG: 0,
  RWF: 0,
  KMF: 0,
  GNF: 0,
  DJF: 0,
  BIF: 0,
  VUV: 0,
  KWD: 3,
  BHD: 3,
  OMR: 3,
  JOD: 3,
  TND: 3,
  IQD: 0,
  LYD: 3,
};
const NAMES = {
  USD: ["US dollar", "US dollars"],
  EUR: ["euro", "euros"],
  GBP: ["British pound", "British pounds"],
  JPY: ["Japanese yen", "Japanese yen"],
  CHF: ["Swiss franc", "Swiss francs"],
  CAD: ["Canadian dollar", "Canadian dollars"],
  INR: ["Indian rupee", "Indian rupees"],
};
const SCALES = [
  ["T", "trillion", 12],
  ["B", "billion", 9],
  ["M", "million", 6],
  ["K", "thousand", 3],
];

function readNumberOptions(options = {}) {
  const given = Object(options);
  const style = oneOf(given, "style", ["decimal", "percent", "currency", "unit"], "decimal");
  if (style === "unit") throw new RangeErrorClass('Intl.NumberFormat: style "unit" is not available in a code step');
  const currency = given.currency === undefined ? undefined : upper(StringOf(given.currency));
  if (currency !== undefined && !matches(/^[A-Z]{3}$/, currency))
    throw new RangeErrorClass(`Invalid currency code : ${StringOf(given.currency)}`);
  if (style === "currency" && currency === undefined)
    throw new TypeErrorClass("Currency code is required with currency style.");
  const notation = oneOf(given, "notation", ["standard", "compact", "scientific", "engineering"], "standard");
  const compact = notation === "compact";
  const unit = style === "currency" && notation === "standard" ? (MINOR_UNITS[currency] ?? 2) : 0;
  const least = digitsOption(given, "minimumFractionDigits", 0, 100);
  const most = digitsOption(given, "maximumFractionDigits", 0, 100);
  const defaultMost = style === "currency" ? unit : style === "percent" || compact ? 0 : 3;
  const minimum = least ?? min(style === "currency" ? unit : 0, most ?? 100);
  const maximum = most ?? max(minimum, defaultMost);
  if (minimum > maximum) throw new RangeErrorClass("maximumFractionDigits value is out of range.");
  const significant = given.minimumSignificantDigits !== undefined || given.maximumSignificantDigits !== undefined;
  const grouping = given.useGrouping;
  return {
    style,
    currency,
    notation,
    minimum,
    maximum,
    significant,
    // Two digits, rounded to a whole number, is what compact numbers have if nothing else is asked for.
    roundsCompact: compact && !significant && least === undefined && most === undefined,
    integer: digitsOption(given, "minimumIntegerDigits", 1, 21, 1),
    minimumSignificant: digitsOption(given, "minimumSignificantDigits", 1, 100, 1),
    maximumSignificant: digitsOption(given, "maximumSignificantDigits", 1, 100, 21),
    grouping:
      grouping === undefined
        ? compact
          ? "min2"
          : "auto"
        : grouping === "min2"
          ? "min2"
          : grouping === false || grouping === "false"
            ? false
            : "auto",
    sign: oneOf(given, "signDisplay", ["auto", "always", "never", "exceptZero", "negative"], "auto"),
    currencyDisplay: oneOf(given, "currencyDisplay", ["symbol", "narrowSymbol", "code", "name"], "symbol"),
    accounting: oneOf(given, "currencySign", ["standard", "accounting"], "standard") === "accounting",
    compactDisplay: oneOf(given, "compactDisplay", ["short", "long"], "short"),
  };
}

// Digits of a number ≥ 0, and the power of ten of the first: those that tell it from its neighbours, as ICU takes them.
function decimal(number) {
  if (typeof number === "bigint") return [`${number}`, `${number}`.length - 1];
  const [, head, tail, exponent] = exec(/^(\d)(?:\.(\d+))?e([+-]\d+)$/, number.toExponential());
  return [head + (tail ?? ""), +exponent];
}

// Decimal text with `places` digits after the point, rounded half up; fewer than none means tens, hundreds and so on.
function fixed(number, places) {
  let [digits, exponent] = decimal(number);
  const kept = exponent + 1 + places;
  if (kept < 0) [digits, exponent] = ["0", 0];
  else if (kept < digits.length) {
    const up = digits[kept] >= "5";
    digits = kept === 0 ? "0" : sliceText(digits, 0, kept);
    if (up) {
      const next = `${BigInt(digits) + 1n}`;
      if (kept === 0) exponent++;
      else if (next.length > digits.length) exponent++;
      digits = next;
    }
  }
  const whole = exponent < 0 ? "0" : padEnd(sliceText(digits, 0, exponent + 1), exponent + 1, "0");
  if (places <= 0) return whole;
  const zeros = exponent < 0 ? repeat("0", -1 - exponent) : "";
  const rest = exponent < 0 ? digits : sliceText(digits, exponent + 1);
  return `${whole}.${sliceText(padEnd(zeros + rest, places, "0"), 0, places)}`;
}

const trimZeros = (text, keep) => {
  const dot = indexOfText(text, ".");
  if (dot < 0) return text;
  let end = text.length;
  while (end > dot + 1 + keep && text[end - 1] === "0") end--;
  return sliceText(text, 0, end === dot + 1 ? dot : end);
};

function significantText(number, least, most) {
  if (number == 0) return least > 1 ? `0.${repeat("0", least - 1)}` : "0";
  const places = most - 1 - decimal(number)[1];
  const text = fixed(number, places);
  return trimZeros(text, max(0, least - 1 - decimal(NumberOf(text))[1]));
}

function digitsOf(resolved, number) {
  if (resolved.significant) return significantText(number, resolved.minimumSignificant, resolved.maximumSignificant);
  if (resolved.roundsCompact) {
    return number < 100 ? significantText(number, 1, 2) : fixed(number, 0);
  }
  return trimZeros(fixed(number, resolved.maximum), resolved.minimum);
}

function numberParts(resolved, value) {
  const parts = [];
  const add = (type, text) => push(parts, { type, value: text });
  const isBig = typeof value === "bigint";
  let magnitude = isBig ? value : NumberOf(value);
  const negative = isBig ? magnitude < 0n : magnitude < 0 || is(magnitude, -0);
  if (negative) magnitude = -magnitude;
  if (resolved.style === "percent") magnitude = isBig ? magnitude * 100n : NumberOf(`${magnitude}e2`) || magnitude * 100;
  let suffix = "";
  let digits;
  if (!isBig && isNaNumber(magnitude)) digits = "NaN";
  else if (magnitude === Infinity) digits = "∞";
  else if (resolved.notation === "compact") {
    [digits, suffix] = compactDigits(resolved, NumberOf(magnitude));
  } else if (resolved.notation !== "standard") {
    const step = resolved.notation === "engineering" ? 3 : 1;
    const raw = NumberOf(magnitude);
    const exponent = raw === 0 ? 0 : floor(+exec(/e(.*)$/, raw.toExponential())[1] / step) * step;
    digits = digitsOf(resolved, NumberOf(`${raw}e${-exponent}`) || raw / 10 ** exponent);
    suffix = `E${exponent}`;
  } else digits = digitsOf(resolved, magnitude);

  const zero = !matches(/[1-9∞N]/, digits);
  let sign = "";
  if (digits !== "NaN") {
    const display = resolved.sign;
    if (negative && display !== "never" && !(zero && (display === "exceptZero" || display === "negative"))) sign = "-";
    else if (!negative && (display === "always" || (display === "exceptZero" && !zero))) sign = "+";
  } else if (resolved.sign === "always") sign = "+";
  const brackets = sign === "-" && resolved.accounting && resolved.style === "currency";
  if (brackets) add("literal", "(");
  else if (sign) add(sign === "-" ? "minusSign" : "plusSign", sign);

  const named = resolved.style === "currency" && resolved.currencyDisplay === "name";
  if (resolved.style === "currency" && !named) {
    const { currency, currencyDisplay } = resolved;
    let symbol = currencyDisplay === "code" ? currency : (SYMBOLS[currency] ?? currency);
    if (currencyDisplay === "narrowSymbol") symbol = replaceBy(/^[A-Z]+(?=[^A-Z\s])/, symbol, "");
    add("currency", symbol);
    if (matches(/[A-Z]$/, symbol)) add("literal", "\u00a0");
  }
  addDigits(resolved, digits, parts);
  if (suffix) addSuffix(resolved, suffix, parts);
  if (resolved.style === "percent") add("percentSign", "%");
  if (named) {
    add("literal", " ");
    const names = NAMES[resolved.currency];
    add("currency", names ? names[digits === "1" ? 0 : 1] : resolved.currency);
  }
  if (brackets) add("literal", ")");
  return parts;
}

function addDigits(resolved, digits, parts) {
  if (digits === "NaN" || digits === "∞") return push(parts, { type: digits === "NaN" ? "nan" : "infinity", value: digits });
  const dot = indexOfText(digits, ".");
  const whole = padStart(dot < 0 ? digits : sliceText(digits, 0, dot), resolved.integer, "0");
  if (resolved.grouping && whole.length > (resolved.grouping === "min2" ? 4 : 3)) {
    const groups = splitText(replaceBy(/\B(?=(\d{3})+$)/g, whole, ","), ",");
    for (let i = 0; i < groups.length; i++) {
      if (i > 0) push(parts, { type: "group", value: "," });
      push(parts, { type: "integer", value: groups[i] });
    }
  } else push(parts, { type: "integer", value: whole });
  if (dot >= 0) push(parts, { type: "decimal", value: "." }, { type: "fraction", value: sliceText(digits, dot + 1) });
}

function addSuffix(resolved, suffix, parts) {
  if (resolved.notation === "compact") {
    const long = resolved.compactDisplay === "long";
    if (long) push(parts, { type: "literal", value: " " });
    push(parts, { type: "compact", value: suffix });
    return;
  }
  push(parts, { type: "exponentSeparator", value: "E" });
  if (suffix[1] === "-") push(parts, { type: "exponentMinusSign", value: "-" });
  push(parts, { type: "exponentInteger", value: replaceBy(/^E-?/, suffix, "") });
}

function compactDigits(resolved, number) {
  for (let i = 0; i <= SCALES.length; i++) {
    const [short, long, power] = SCALES[i] ?? ["", "", 0];
    if (number < 10 ** power && power > 0) {
      // 999,999 is 1M: what rounds up to the next scale belongs to it.
      const below = SCALES[i + 1]?.[2] ?? 0;
      const rounded = +digitsOf(resolved, number / 10 ** below);
      if (!(rounded >= 1000 && number >= 10 ** below)) continue;
    }
    return [digitsOf(resolved, number / 10 ** power), resolved.compactDisplay === "long" ? long : short];
  }
  return [digitsOf(resolved, number), ""];
}

const numeric = (value) =>
  typeof value === "bigint"
    ? value
    : typeof value === "string" && matches(/^\s*[+-]?\d{16,}\s*$/, value)
      ? BigInt(trim(value))
      : NumberOf(value);

class NumberFormat {
  #resolved;
  constructor(locales, options) {
    checkLocales(locales);
    this.#resolved = readNumberOptions(options);
  }
  static supportedLocalesOf = supportedLocalesOf;
  get format() {
    return (value) => joined(numberParts(this.#resolved, numeric(value)));
  }
  formatToParts(value) {
    return numberParts(this.#resolved, numeric(value));
  }
  resolvedOptions() {
    const r = this.#resolved;
    const result = { locale: LOCALE, numberingSystem: "latn", style: r.style };
    if (r.style === "currency")
      assign(result, {
        currency: r.currency,
        currencyDisplay: r.currencyDisplay,
        currencySign: r.accounting ? "accounting" : "standard",
      });
    result.minimumIntegerDigits = r.integer;
    if (r.significant)
      assign(result, { minimumSignificantDigits: r.minimumSignificant, maximumSignificantDigits: r.maximumSignificant });
    else assign(result, { minimumFractionDigits: r.minimum, maximumFractionDigits: r.maximum });
    return assign(result, { useGrouping: r.grouping, notation: r.notation, signDisplay: r.sign });
  }
}
