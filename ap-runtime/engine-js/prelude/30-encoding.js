// `TextEncoder` and `TextDecoder` of the Encoding Standard, for UTF-8, UTF-16 and Latin-1 (windows-1252).

class TextEncoder {
  get encoding() {
    return "utf-8";
  }
  encode(text = "") {
    return utf8Bytes(StringOf(text));
  }
  encodeInto(text, target) {
    if (tagOfView(target) !== "Uint8Array") throw argumentError("dest", "an instance of Uint8Array", target);
    const source = StringOf(text);
    const room = viewLength(target);
    let bytes = utf8Bytes(source);
    let read = source.length;
    if (bytes.length > room) {
      let end = room;
      while (end > 0 && (bytes[end] & 0xc0) === 0x80) end--;
      bytes = bytes.subarray(0, end);
      read = hostDecode(bytes, false, true).length;
    }
    copyInto(target, bytes);
    return { read, written: bytes.length };
  }
}

const LABELS = {
  __proto__: null,
  "unicode-1-1-utf-8": "utf-8",
  utf8: "utf-8",
  "utf-8": "utf-8",
  unicode11utf8: "utf-8",
  unicode20utf8: "utf-8",
  "x-unicode20utf8": "utf-8",
  "utf-16le": "utf-16le",
  "utf-16": "utf-16le",
  "ucs-2": "utf-16le",
  "iso-10646-ucs-2": "utf-16le",
  unicode: "utf-16le",
  unicodefeff: "utf-16le",
  csunicode: "utf-16le",
  "utf-16be": "utf-16be",
  unicodefffe: "utf-16be",
  latin1: "windows-1252",
  "iso-8859-1": "windows-1252",
  iso88591: "windows-1252",
  "iso8859-1": "windows-1252",
  "iso_8859-1": "windows-1252",
  ascii: "windows-1252",
  "us-ascii": "windows-1252",
  "ansi_x3.4-1968": "windows-1252",
  "windows-1252": "windows-1252",
  cp1252: "windows-1252",
  "x-cp1252": "windows-1252",
  l1: "windows-1252",
  ibm819: "windows-1252",
  cp819: "windows-1252",
  "iso-ir-100": "windows-1252",
  csisolatin1: "windows-1252",
  "iso_8859-1:1987": "windows-1252",
};

// What windows-1252 has at 0x80 to 0x9f.
const WINDOWS_1252 = "€\x81‚ƒ„…†‡ˆ‰Š‹Œ\x8dŽ\x8f\x90‘’“”•–—˜™š›œ\x9džŸ";

class TextDecoder {
  #encoding;
  #fatal;
  #ignoreBom;
  // Bytes of a character whose end has not come, and whether the stream's beginning, which may be a mark, has passed.
  #rest = EMPTY;
  #begun = false;

  constructor(label = "utf-8", options = {}) {
    const encoding = LABELS[lower(replaceBy(/^[\t\n\f\r ]+|[\t\n\f\r ]+$/g, StringOf(label), ""))];
    if (encoding === undefined)
      throw nodeError(RangeErrorClass, "ERR_ENCODING_NOT_SUPPORTED", `The "${StringOf(label)}" encoding is not supported`);
    this.#encoding = encoding;
    this.#fatal = Boolean(options?.fatal);
    this.#ignoreBom = Boolean(options?.ignoreBOM);
  }
  get encoding() {
    return this.#encoding;
  }
  get fatal() {
    return this.#fatal;
  }
  get ignoreBOM() {
    return this.#ignoreBom;
  }

  decode(input, options) {
    const stream = Boolean(options?.stream);
    let bytes = input === undefined ? EMPTY : bufferSource(input, "input");
    if (this.#rest.length > 0) bytes = concatBytes([this.#rest, bytes]);
    this.#rest = EMPTY;
    let text;
    try {
      text = this.#text(bytes, stream);
    } catch (error) {
      this.#begun = false;
      this.#rest = EMPTY;
      throw error;
    }
    if (text.length > 0) {
      if (!this.#begun && !this.#ignoreBom && this.#encoding !== "windows-1252" && charCode(text, 0) === 0xfeff)
        text = sliceText(text, 1);
      this.#begun = true;
    }
    if (!stream) this.#begun = false;
    return text;
  }

  #text(bytes, stream) {
    if (this.#encoding === "windows-1252")
      return replaceBy(/[\x80-\x9f]/g, latin1Text(bytes), (char) => WINDOWS_1252[charCode(char, 0) - 128]);
    if (this.#encoding !== "utf-8") return this.#utf16(bytes, stream);
    if (stream) {
      const whole = wholeUtf8(bytes);
      this.#rest = copyOf(bytes.subarray(whole));
      bytes = bytes.subarray(0, whole);
    }
    try {
      return hostDecode(bytes, this.#fatal, true);
    } catch {
      throw this.#malformed();
    }
  }

  #utf16(bytes, stream) {
    let whole = bytes.length & ~1;
    const bigEndian = this.#encoding === "utf-16be";
    if (stream) {
      const high = whole > 0 ? bytes[bigEndian ? whole - 2 : whole - 1] : 0;
      if (high >= 0xd8 && high <= 0xdb) whole -= 2;
      this.#rest = copyOf(bytes.subarray(whole));
    }
    let text = utf16Text(bytes.subarray(0, whole), bigEndian);
    const odd = !stream && bytes.length !== whole;
    const formed = wellFormed(text);
    if (this.#fatal && (odd || formed !== text)) throw this.#malformed();
    text = formed;
    return odd ? `${text}\ufffd` : text;
  }

  #malformed() {
    return nodeError(
      TypeErrorClass,
      "ERR_ENCODING_INVALID_ENCODED_DATA",
      `The encoded data was not valid for encoding ${this.#encoding}`,
    );
  }
}

// Where the last character begins if its end is missing, else the length.
function wholeUtf8(bytes) {
  const length = viewLength(bytes);
  for (let back = 1; back <= 3 && back <= length; back++) {
    const byte = bytes[length - back];
    if ((byte & 0xc0) === 0x80) continue;
    const size = byte >= 0xf0 && byte <= 0xf4 ? 4 : byte >= 0xe0 ? 3 : byte >= 0xc2 ? 2 : 1;
    if (byte > 0xf4 || size <= back) return length;
    // A second byte that the first one forbids ends the sequence already.
    if (back >= 2 && !secondFits(byte, bytes[length - back + 1])) return length;
    return length - back;
  }
  return length;
}

function secondFits(first, second) {
  switch (first) {
    case 0xe0:
      return second >= 0xa0;
    case 0xed:
      return second <= 0x9f;
    case 0xf0:
      return second >= 0x90;
    case 0xf4:
      return second <= 0x8f;
    default:
      return true;
  }
}

webInterface(TextEncoder, "TextEncoder");
webInterface(TextDecoder, "TextDecoder");
