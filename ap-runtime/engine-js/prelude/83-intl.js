// `Intl` itself, and the `toLocale…` methods.

// `DateTimeFormat()` without `new` is what old programs write.
const callable = (Class) => {
  const made = function (...args) {
    return construct(Class, args, new.target ?? Class);
  };
  defineProperty(made, "name", { value: Class.name });
  made.prototype = Class.prototype;
  defineProperty(Class.prototype, "constructor", hidden(made));
  made.supportedLocalesOf = supportedLocalesOf;
  return made;
};

const dateMethod = (required, defaults) =>
  function (locales, options) {
    const time = dateTime(this);
    if (isNaNumber(time)) return "Invalid Date";
    checkLocales(locales);
    return joined(dateParts(readDateOptions(options, required, defaults), time));
  };
defineHidden(DateClass.prototype, {
  toLocaleString: dateMethod("any", "all"),
  toLocaleDateString: dateMethod("date", "date"),
  toLocaleTimeString: dateMethod("time", "time"),
});
defineHidden(Number.prototype, {
  toLocaleString(locales, options) {
    return new NumberFormat(locales, options).format(numberValue(this));
  },
});
defineHidden(BigInt.prototype, {
  toLocaleString(locales, options) {
    return new NumberFormat(locales, options).format(bigValue(this));
  },
});
defineHidden(String.prototype, {
  localeCompare(other, locales, options) {
    return new Collator(locales, options).compare(`${this}`, `${other}`);
  },
});

const Intl = {
  DateTimeFormat: callable(DateTimeFormat),
  NumberFormat: callable(NumberFormat),
  Collator: callable(Collator),
  PluralRules,
  ListFormat,
  RelativeTimeFormat,
  getCanonicalLocales: checkLocales,
};
defineHidden(Intl, { ...Intl });
defineProperty(Intl, TAG, { value: "Intl", configurable: true });
