// Numbers in a Buffer: `readUInt16BE`, `writeBigInt64LE`, `readIntBE(offset, byteLength)` and the rest of that family.

{
  const view = (buffer) => new View(viewBuffer(buffer), viewOffset(buffer), viewBytes(buffer));

  function checkOffset(buffer, offset, size) {
    if (typeof offset !== "number") throw argumentError("offset", "of type number", offset);
    const most = buffer.length - size;
    if (isInteger(offset) && offset >= 0 && offset <= most) return;
    if (!isInteger(offset)) throw rangeError("offset", "an integer", offset);
    if (most < 0)
      throw nodeError(RangeErrorClass, "ERR_BUFFER_OUT_OF_BOUNDS", "Attempt to access memory outside buffer bounds");
    throw rangeError("offset", `>= 0 and <= ${most}`, offset);
  }

  function checkValue(value, least, most, bytes) {
    if (value >= least && value <= most) return;
    const n = typeof least === "bigint" ? "n" : "";
    let range;
    if (bytes > 4 || n) {
      range =
        least == 0
          ? `>= 0${n} and < 2${n} ** ${bytes * 8}${n}`
          : `>= -(2${n} ** ${bytes * 8 - 1}${n}) and < 2${n} ** ${bytes * 8 - 1}${n}`;
    } else {
      range = `>= ${least} and <= ${most}`;
    }
    throw rangeError("value", range, value);
  }

  const methods = {};

  // Reads and writes one kind of number; `Uint` is another spelling of `UInt`.
  function family(names, size, kind, limits, endings) {
    const big = indexOfText(kind, "Big") === 0;
    const getter = View.prototype[`get${kind}`];
    const setter = View.prototype[`set${kind}`];
    for (const ending of endings) {
      const little = ending === "LE";
      for (const name of names) {
        const readName = `read${name}${ending}`;
        const writeName = `write${name}${ending}`;
        Object.assign(methods, {
          [readName](offset = 0) {
            checkOffset(this, offset, size);
            return apply(getter, view(this), [offset, little]);
          },
          [writeName](value, offset = 0) {
            const number = big ? value : +value;
            if (big && typeof number !== "bigint") throw argumentError("value", "of type bigint", value);
            if (limits && !isNaNumberOrBig(number)) checkValue(number, limits[0], limits[1], size);
            checkOffset(this, offset, size);
            apply(setter, view(this), [offset, number, little]);
            return offset + size;
          },
        });
      }
    }
  }

  const isNaNumberOrBig = (value) => typeof value === "number" && value !== value;

  const ends = ["LE", "BE"];
  family(["UInt8", "Uint8"], 1, "Uint8", [0, 255], [""]);
  family(["Int8"], 1, "Int8", [-128, 127], [""]);
  family(["UInt16", "Uint16"], 2, "Uint16", [0, 65535], ends);
  family(["Int16"], 2, "Int16", [-32768, 32767], ends);
  family(["UInt32", "Uint32"], 4, "Uint32", [0, 2 ** 32 - 1], ends);
  family(["Int32"], 4, "Int32", [-(2 ** 31), 2 ** 31 - 1], ends);
  family(["BigUInt64", "BigUint64"], 8, "BigUint64", [0n, 2n ** 64n - 1n], ends);
  family(["BigInt64"], 8, "BigInt64", [-(2n ** 63n), 2n ** 63n - 1n], ends);
  family(["Float"], 4, "Float32", undefined, ends);
  family(["Double"], 8, "Float64", undefined, ends);

  function checkByteLength(size) {
    if (size === undefined || typeof size !== "number") throw argumentError("byteLength", "of type number", size);
    if (!isInteger(size)) throw rangeError("byteLength", "an integer", size);
    if (size < 1 || size > 6) throw rangeError("byteLength", ">= 1 and <= 6", size);
  }

  function read(buffer, offset, size, little, signed) {
    if (offset === undefined) throw argumentError("offset", "of type number", offset);
    checkByteLength(size);
    checkOffset(buffer, offset, size);
    let value = 0;
    for (let i = 0; i < size; i++) value = value * 256 + buffer[little ? offset + size - 1 - i : offset + i];
    return signed && value >= 2 ** (size * 8 - 1) ? value - 2 ** (size * 8) : value;
  }

  function write(buffer, value, offset, size, little, signed) {
    checkByteLength(size);
    const number = +value;
    const most = signed ? 2 ** (size * 8 - 1) - 1 : 2 ** (size * 8) - 1;
    if (!isNaNumber(number)) checkValue(number, signed ? -most - 1 : 0, most, size);
    if (offset === undefined) throw argumentError("offset", "of type number", offset);
    checkOffset(buffer, offset, size);
    let rest = trunc(number) || 0;
    if (rest < 0) rest += 2 ** (size * 8);
    for (let i = 0; i < size; i++) {
      buffer[little ? offset + i : offset + size - 1 - i] = rest % 256;
      rest = floor(rest / 256);
    }
    return offset + size;
  }

  for (const ending of ends) {
    const little = ending === "LE";
    for (const name of ["UInt", "Uint", "Int"]) {
      const signed = name === "Int";
      Object.assign(methods, {
        [`read${name}${ending}`](offset, byteLength) {
          return read(this, offset, byteLength, little, signed);
        },
        [`write${name}${ending}`](value, offset, byteLength) {
          return write(this, value, offset, byteLength, little, signed);
        },
      });
    }
  }

  defineHidden(FastBuffer.prototype, methods);
}
