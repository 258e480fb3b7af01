// How `util.inspect` sets out the items of an object.

// One line if it is short, lines of equal columns for long arrays of short items, else a line each.
function layOut(context, items, base, open, close, kind, level, value) {
  let output = items;
  if (typeof context.compact === "number" && context.compact >= 1) {
    const entries = output.length;
    if (kind === "array" && entries > 6) output = columns(context, output, value);
    if (context.level - level < context.compact && entries === output.length) {
      const start = output.length + context.indentation + open.length + base.length + 10;
      if (fits(context, output, start, base)) {
        const line = join(output, ", ");
        if (indexOfText(line, "\n") < 0) return `${base ? `${base} ` : ""}${open} ${line} ${close}`;
      }
    }
    const indentation = `\n${repeat(" ", context.indentation)}`;
    return `${base ? `${base} ` : ""}${open}${indentation}  ${join(output, `,${indentation}  `)}${indentation}${close}`;
  }
  if (context.compact === true && fits(context, output, 0, base)) {
    return `${open}${base ? ` ${base}` : ""} ${join(output, ", ")} ${close}`;
  }
  const indentation = `\n${repeat(" ", context.indentation)}`;
  return `${base ? `${base} ` : ""}${open}${indentation}  ${join(output, `,${indentation}  `)}${indentation}${close}`;
}

function fits(context, output, start, base) {
  let total = output.length + start;
  if (total + output.length > context.breakLength) return false;
  for (let i = 0; i < output.length; i++) {
    total += output[i].length;
    if (total > context.breakLength) return false;
  }
  return base === "" || indexOfText(base, "\n") < 0;
}

// The grid that Node.js lays arrays out in: as square as it gets, at most 16 columns, numbers to the right.
function columns(context, output, value) {
  const count = output.length - (context.maxArrayLength < output.length ? 1 : 0);
  const widths = [];
  let total = 0;
  let widest = 0;
  for (let i = 0; i < count; i++) {
    widths[i] = output[i].length;
    total += widths[i] + 2;
    widest = max(widest, widths[i]);
  }
  const cell = widest + 2;
  if (cell * 3 + context.indentation >= context.breakLength || !(total / cell > 5 || widest <= 6)) return output;
  const biased = max(cell - 3 - sqrt(cell - total / output.length), 1);
  const across = min(
    round(sqrt(2.5 * biased * count) / biased),
    floor((context.breakLength - context.indentation) / cell),
    context.compact * 4,
    15,
  );
  if (across <= 1) return output;
  const columnWidths = [];
  for (let column = 0; column < across; column++) {
    let width = 0;
    for (let i = column; i < count; i += across) width = max(width, widths[i]);
    push(columnWidths, width + 2);
  }
  let pad = padStart;
  for (let i = 0; i < output.length; i++) {
    const item = value?.[i];
    if (typeof item !== "number" && typeof item !== "bigint") pad = padEnd;
  }
  const rows = [];
  for (let at = 0; at < count; at += across) {
    const end = min(at + across, count);
    let row = "";
    for (let i = at; i < end - 1; i++) row += pad(`${output[i]}, `, columnWidths[i - at], " ");
    row += pad === padStart ? padStart(output[end - 1], columnWidths[end - 1 - at] - 2, " ") : output[end - 1];
    push(rows, row);
  }
  if (count < output.length) push(rows, output[count]);
  return rows;
}
