// The module `string_decoder`: text from bytes that come in pieces.

class StringDecoder {
  #encoding;
  #rest = EMPTY;

  constructor(encoding) {
    this.#encoding = knownEncoding(encoding);
  }
  get encoding() {
    return this.#encoding;
  }

  write(data) {
    if (typeof data === "string") return data;
    const given = isView(data) ? bytesOf(data) : undefined;
    if (!given) throw argumentError("buf", "an instance of Buffer, TypedArray, or DataView", data);
    const bytes = this.#rest.length > 0 ? concatBytes([this.#rest, given]) : given;
    const whole = this.#whole(bytes);
    this.#rest = copyOf(bytes.subarray(whole));
    return decodeText(bytes.subarray(0, whole), this.#encoding);
  }

  // How many bytes end with a whole character.
  #whole(bytes) {
    const length = bytes.length;
    switch (this.#encoding) {
      case "utf8":
        return wholeUtf8(bytes);
      case "utf16le": {
        const even = length & ~1;
        const high = even > 0 ? bytes[even - 1] : 0;
        return high >= 0xd8 && high <= 0xdb ? even - 2 : even;
      }
      case "base64":
      case "base64url":
        return length - (length % 3);
      default:
        return length;
    }
  }

  end(data) {
    const text = data === undefined ? "" : this.write(data);
    const rest = this.#rest;
    this.#rest = EMPTY;
    return rest.length > 0 ? text + decodeText(rest, this.#encoding) : text;
  }
}
