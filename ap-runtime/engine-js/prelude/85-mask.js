// `mask`: personal data made fit to be logged or shown. The rules are those of the action `text.mask`.

const mask = freeze({
  // Two characters and the domain; of a shorter name nothing.
  email(value) {
    const text = maskable(value);
    if (text === "") return "";
    const at = text.lastIndexOf("@");
    if (at < 0) return "***";
    const name = [...sliceText(text, 0, at)];
    return `${name.length >= 2 ? join(sliceArray(name, 0, 2), "") : ""}***${sliceText(text, at)}`;
  },
  // The last four digits of 12 to 19, as on receipts.
  creditCard: (value) => maskDigits(value, "****-****-****-", 12, 19),
  ssn: (value) => maskDigits(value, "***-**-", 9, 9),
  password: (value) => (maskable(value) === "" ? "" : "[REDACTED]"),
});

const maskable = (value) => (value === undefined || value === null ? "" : StringOf(value));

function maskDigits(value, shown, least, most) {
  const text = maskable(value);
  if (text === "") return "";
  const digits = replaceBy(/[ -]/g, text, "");
  const fits = matches(/^[0-9]+$/, digits) && digits.length >= least && digits.length <= most;
  return fits ? `${shown}${sliceText(digits, -4)}` : "***";
}
