// `Intl` and the `toLocale…` methods for one locale, en-US, and for UTC and fixed offsets from it. There is no other locale
// data: any locale that is asked for falls back to en-US, as the standard lets it, and another time zone is an error.

const LOCALE = "en-US";
const MONTHS = [
  "January",
  "February",
  "March",
  "April",
  "May",
  "June",
  "July",
  "August",
  "September",
  "October",
  "November",
  "December",
];
const DAYS = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

function checkLocales(locales) {
  const list = locales === undefined ? [] : typeof locales === "string" ? [locales] : [...locales];
  for (const locale of list) {
    if (!matches(/^[A-Za-z]{2,8}(?:-[A-Za-z0-9]{1,8})*$/, StringOf(locale)))
      throw new RangeErrorClass(`Incorrect locale information provided: ${StringOf(locale)}`);
  }
  return list;
}

const supportedLocalesOf = (locales) => checkLocales(locales).filter((locale) => matches(/^en(?:-US)?$/i, locale));

function oneOf(options, name, allowed, fallback) {
  const value = options[name];
  if (value === undefined) return fallback;
  const text = StringOf(value);
  if (!arrayHas(allowed, text)) throw new RangeErrorClass(`Value ${text} out of range for Intl options property ${name}`);
  return text;
}

function digitsOption(options, name, least, most, fallback) {
  const value = options[name];
  if (value === undefined) return fallback;
  const number = +value;
  if (!(number >= least && number <= most)) throw new RangeErrorClass(`${name} value is out of range.`);
  return floor(number);
}

const two = (number) => padStart(StringOf(number), 2, "0");
const joined = (parts) =>
  join(
    parts.map((part) => part.value),
    "",
  );

// Minutes east of UTC.
function zoneOffset(zone) {
  if (matches(/^(?:utc|gmt|etc\/(?:utc|gmt|uct|zulu|universal)|uct|zulu)$/i, zone)) return ["UTC", 0];
  const found = exec(/^([+-])(\d\d)(?::?(\d\d))?$/, zone);
  if (!found || +found[2] > 23 || +(found[3] ?? 0) > 59)
    throw new RangeErrorClass(`Invalid time zone specified: ${zone} (a code step knows UTC and offsets such as +05:30)`);
  const minutes = (+found[2] * 60 + +(found[3] ?? 0)) * (found[1] === "-" ? -1 : 1);
  return [`${found[1]}${found[2]}:${found[3] ?? "00"}`, minutes];
}

const WIDTHS = ["narrow", "short", "long"];
const NUMERIC = ["2-digit", "numeric"];
const FIELDS = {
  weekday: WIDTHS,
  era: WIDTHS,
  year: NUMERIC,
  month: ["2-digit", "numeric", ...WIDTHS],
  day: NUMERIC,
  hour: NUMERIC,
  minute: NUMERIC,
  second: NUMERIC,
};
const DATE_STYLES = {
  full: { weekday: "long", year: "numeric", month: "long", day: "numeric" },
  long: { year: "numeric", month: "long", day: "numeric" },
  medium: { year: "numeric", month: "short", day: "numeric" },
  short: { year: "2-digit", month: "numeric", day: "numeric" },
};
const TIME_STYLES = {
  full: { hour: "numeric", minute: "2-digit", second: "2-digit", timeZoneName: "long" },
  long: { hour: "numeric", minute: "2-digit", second: "2-digit", timeZoneName: "short" },
  medium: { hour: "numeric", minute: "2-digit", second: "2-digit" },
  short: { hour: "numeric", minute: "2-digit" },
};

// `required` and `defaults` are "date", "time" or "any"/"all", as the standard's own algorithm has them.
function readDateOptions(options = {}, required = "any", defaults = "date") {
  const given = options === null ? ObjectPrototype.valueOf.call(options) : Object(options);
  const [timeZone, offset] = zoneOffset(given.timeZone === undefined ? "UTC" : StringOf(given.timeZone));
  const fields = {};
  for (const name of objectKeys(FIELDS)) {
    const value = oneOf(given, name, FIELDS[name]);
    if (value !== undefined) fields[name] = value;
  }
  const zoneName = oneOf(given, "timeZoneName", ["short", "long", "shortOffset", "longOffset", "shortGeneric", "longGeneric"]);
  if (zoneName) fields.timeZoneName = zoneName;
  const fraction = digitsOption(given, "fractionalSecondDigits", 1, 3);
  if (fraction) fields.fractionalSecondDigits = fraction;
  const dateStyle = oneOf(given, "dateStyle", objectKeys(DATE_STYLES));
  const timeStyle = oneOf(given, "timeStyle", objectKeys(TIME_STYLES));
  if (dateStyle || timeStyle) {
    for (const name of objectKeys(fields))
      throw new TypeErrorClass(`Can't set option ${name} when ${dateStyle ? "dateStyle" : "timeStyle"} is used`);
    if ((required === "date" && timeStyle) || (required === "time" && dateStyle))
      throw new TypeErrorClass(`Invalid option : ${required === "date" ? "timeStyle" : "dateStyle"}`);
    assign(fields, dateStyle && DATE_STYLES[dateStyle], timeStyle && TIME_STYLES[timeStyle]);
  } else {
    const hasDate = fields.weekday || fields.year || fields.month || fields.day;
    const hasTime = fields.hour || fields.minute || fields.second || fields.fractionalSecondDigits;
    const enough = (required !== "time" && hasDate) || (required !== "date" && hasTime);
    if (!enough) {
      if (defaults !== "time") assign(fields, { year: "numeric", month: "numeric", day: "numeric" });
      if (defaults !== "date") assign(fields, { hour: "numeric", minute: "2-digit", second: "2-digit" });
    }
  }
  let cycle = oneOf(given, "hourCycle", ["h11", "h12", "h23", "h24"], "h12");
  if (given.hour12 !== undefined) cycle = given.hour12 ? "h12" : "h24";
  return { timeZone, offset, fields, cycle: fields.hour ? cycle : undefined, dateStyle, timeStyle };
}

function dateParts(resolved, time) {
  if (!isFiniteNumber(time)) throw new RangeErrorClass("Invalid time value");
  const { fields } = resolved;
  const date = new DateClass(time + resolved.offset * 60000);
  const parts = [];
  const add = (type, value) => push(parts, { type, value });
  const literal = (value) => push(parts, { type: "literal", value });
  addDate(fields, date, add, literal);
  const timeAt = parts.length;
  addTime(resolved, date, add, literal);
  if (timeAt > 0 && parts.length > timeAt) {
    const onlyDay = fields.weekday && !fields.year && !fields.month && !fields.day;
    const long = fields.month === "long" && (fields.hour || fields.minute);
    splice(parts, timeAt, 0, { type: "literal", value: onlyDay ? " " : long ? " at " : ", " });
  }
  return parts;
}

function addDate(fields, date, add, literal) {
  const { weekday, year, month, day, era } = fields;
  const yearNumber = date.getUTCFullYear();
  const shown = era && yearNumber <= 0 ? 1 - yearNumber : yearNumber;
  const yearText = year === "2-digit" ? two(abs(shown) % 100) : `${shown}`;
  const named = month !== undefined && arrayHas(WIDTHS, month);
  const name = (full, width) => (width === "long" ? full : sliceText(full, 0, width === "short" ? 3 : 1));
  const addDay = () => add("day", day === "2-digit" ? two(date.getUTCDate()) : `${date.getUTCDate()}`);
  const dayName = weekday && name(DAYS[date.getUTCDay()], weekday);
  const monthName = named && name(MONTHS[date.getUTCMonth()], month);
  let any = false;
  const between = (text) => {
    if (any) literal(text);
    any = true;
  };
  // "January Tuesday", "2024 Tuesday" and "2 Tuesday": a day's name follows what stands alone.
  const alone = [year, month, day].filter(Boolean).length === 1;
  if (dayName && !alone) {
    between("");
    add("weekday", dayName);
  }
  if (month) {
    between(", ");
    add("month", named ? monthName : month === "2-digit" ? two(date.getUTCMonth() + 1) : `${date.getUTCMonth() + 1}`);
  }
  if (day) {
    between(month ? (named ? " " : "/") : ", ");
    addDay();
  }
  if (year) {
    between(month || day ? (named ? (day ? ", " : " ") : "/") : ", ");
    add("year", yearText);
  }
  if (dayName && alone) {
    between(" ");
    add("weekday", dayName);
  }
  if (era) {
    between(" ");
    add("era", yearNumber <= 0 ? (era === "long" ? "Before Christ" : "BC") : era === "long" ? "Anno Domini" : "AD");
  }
}

function addTime(resolved, date, add, literal) {
  const { hour, minute, second, fractionalSecondDigits, timeZoneName } = resolved.fields;
  const { cycle } = resolved;
  let any = false;
  const between = (text) => {
    if (any) literal(text);
    any = true;
  };
  if (hour) {
    between("");
    const hours = date.getUTCHours();
    const shown = cycle === "h12" ? hours % 12 || 12 : cycle === "h11" ? hours % 12 : cycle === "h24" ? hours || 24 : hours;
    const padded = hour === "2-digit" || cycle === "h23" || cycle === "h24";
    add("hour", padded ? two(shown) : `${shown}`);
  }
  if (minute) {
    between(":");
    add("minute", hour || second ? two(date.getUTCMinutes()) : `${date.getUTCMinutes()}`);
  }
  if (second) {
    between(":");
    add("second", minute ? two(date.getUTCSeconds()) : `${date.getUTCSeconds()}`);
  }
  if (fractionalSecondDigits) {
    between(".");
    add("fractionalSecond", sliceText(padStart(`${date.getUTCMilliseconds()}`, 3, "0"), 0, fractionalSecondDigits));
  }
  if (hour && (cycle === "h12" || cycle === "h11")) {
    literal(" ");
    add("dayPeriod", date.getUTCHours() < 12 ? "AM" : "PM");
  }
  if (timeZoneName) {
    between(" ");
    add("timeZoneName", zoneLabel(resolved, timeZoneName));
  }
}

function zoneLabel({ timeZone, offset }, style) {
  if (offset === 0 && timeZone === "UTC" && !matches(/Offset$/, style))
    return matches(/^long/, style) ? "Coordinated Universal Time" : "UTC";
  if (offset === 0) return "GMT";
  const hours = floor(abs(offset) / 60);
  const minutes = abs(offset) % 60;
  const long = matches(/^long/, style);
  return `GMT${offset < 0 ? "-" : "+"}${long ? two(hours) : hours}${minutes || long ? `:${two(minutes)}` : ""}`;
}

// Formatters work without `new`, and `format` without its object.
class DateTimeFormat {
  #resolved;
  constructor(locales, options) {
    checkLocales(locales);
    this.#resolved = readDateOptions(options);
  }
  static supportedLocalesOf = supportedLocalesOf;
  get format() {
    return (date) => joined(this.formatToParts(date));
  }
  formatToParts(date) {
    return dateParts(this.#resolved, date === undefined ? now() : +date);
  }
  formatRange(start, end) {
    const [one, other] = [this.format(start), this.format(end)];
    return one === other ? one : `${one} – ${other}`;
  }
  resolvedOptions() {
    const { timeZone, fields, cycle, dateStyle, timeStyle } = this.#resolved;
    const result = { locale: LOCALE, calendar: "gregory", numberingSystem: "latn", timeZone };
    if (cycle) assign(result, { hourCycle: cycle, hour12: cycle === "h12" || cycle === "h11" });
    if (dateStyle || timeStyle) return assign(result, dateStyle && { dateStyle }, timeStyle && { timeStyle });
    return assign(result, fields);
  }
}
