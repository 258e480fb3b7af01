// `console`: formatted as Node.js does it, a line per call; the host bounds and redacts what it is given.

const DEBUG = 0,
  INFO = 1,
  LOG = 2,
  WARN = 3,
  ERROR = 4;

const console = (() => {
  let indentation = "";
  const counts = new MapClass();
  const timers = new MapClass();

  // A log line must not fail the step, whatever its values do.
  function line(level, values) {
    let text;
    try {
      text = formatWith(INSPECT_DEFAULTS_FOR_CONSOLE, values);
    } catch (error) {
      text = `[a value that cannot be printed: ${safeText(error)}]`;
    }
    if (indentation !== "") text = indentation + replaceBy(/\n/g, text, `\n${indentation}`);
    hostWrite(level, text);
  }

  function safeText(value) {
    try {
      return StringOf(value?.message ?? value);
    } catch {
      return typeof value;
    }
  }

  const labelOf = (label) => (label === undefined ? "default" : StringOf(label));

  function elapsed(name, rest) {
    const started = mapGet(timers, name);
    if (started === undefined) return line(WARN, [`Warning: No such label '${name}'`]);
    line(LOG, [`${name}: ${now() - started}ms`, ...rest]);
  }

  const logger =
    (level) =>
    (...values) =>
      line(level, values);

  return {
    debug: logger(DEBUG),
    info: logger(INFO),
    log: logger(LOG),
    warn: logger(WARN),
    error: logger(ERROR),
    trace(...values) {
      const error = new ErrorClass();
      const frames = join(userFrames(StringOf(error.stack)), "\n");
      line(ERROR, [`Trace${values.length > 0 ? `: ${formatWith({}, values)}` : ""}${frames ? `\n${frames}` : ""}`]);
    },
    dir(value, options) {
      line(LOG, [inspect(value, { customInspect: false, ...options })]);
    },
    dirxml(...values) {
      line(LOG, values);
    },
    assert(condition, ...values) {
      if (condition) return;
      if (typeof values[0] === "string") values[0] = `Assertion failed: ${values[0]}`;
      else values = ["Assertion failed", ...values];
      line(WARN, values);
    },
    count(label) {
      const name = labelOf(label);
      const count = (mapGet(counts, name) ?? 0) + 1;
      mapSet(counts, name, count);
      line(LOG, [`${name}: ${count}`]);
    },
    countReset(label) {
      mapDelete(counts, labelOf(label));
    },
    group(...values) {
      if (values.length > 0) line(LOG, values);
      if (indentation.length < 100) indentation += "  ";
    },
    groupCollapsed(...values) {
      console.group(...values);
    },
    groupEnd() {
      indentation = sliceText(indentation, 2);
    },
    time(label) {
      mapSet(timers, labelOf(label), now());
    },
    timeLog(label, ...rest) {
      elapsed(labelOf(label), rest);
    },
    timeEnd(label) {
      elapsed(labelOf(label), []);
      mapDelete(timers, labelOf(label));
    },
    table(data, columns) {
      line(LOG, [typeof data === "object" && data !== null ? table(data, columns) : data]);
    },
  };

  // A row per entry, a column per key of the rows.
  function table(data, columns) {
    const cell = (value) => inspect(value, { depth: 0, maxArrayLength: 3, breakLength: Infinity });
    const entries = [];
    const kind = classOf(data);
    let indexName = "(index)";
    if (kind === "Map" || kind === "Set") {
      indexName = "(iteration index)";
      let index = 0;
      const each = kind === "Map" ? mapForEach : setForEach;
      each(data, (value, key) => push(entries, [StringOf(index++), kind === "Map" ? { Key: key, Values: value } : value]));
    } else {
      for (const key of objectKeys(data)) if (entries.length < 1000) push(entries, [key, data[key]]);
    }
    const names = columns ? [...columns] : [];
    let withValues = false;
    for (const [, row] of entries) {
      if (typeof row !== "object" || row === null) withValues = true;
      else if (!columns) {
        for (const key of objectKeys(row)) if (!arrayHas(names, key) && names.length < 50) push(names, key);
      }
    }
    const header = [indexName, ...names];
    if (withValues) push(header, "Values");
    const rows = [];
    for (const [key, row] of entries) {
      const cells = [key];
      const isObject = typeof row === "object" && row !== null;
      for (const name of names) push(cells, isObject && hasOwn(row, name) ? cell(row[name]) : "");
      if (withValues) push(cells, isObject ? "" : cell(row));
      push(rows, cells);
    }
    return drawTable(header, rows);
  }

  function drawTable(header, rows) {
    const widths = header.map((name, column) => {
      let width = name.length;
      for (const row of rows) width = max(width, row[column].length);
      return width + 2;
    });
    const rule = (left, middle, right) =>
      left +
      join(
        widths.map((width) => repeat("─", width)),
        middle,
      ) +
      right;
    const row = (cells) =>
      `│${join(
        cells.map((text, column) => {
          const space = widths[column] - text.length;
          const left = floor(space / 2);
          return repeat(" ", left) + text + repeat(" ", space - left);
        }),
        "│",
      )}│`;
    return join([rule("┌", "┬", "┐"), row(header), rule("├", "┼", "┤"), ...rows.map(row), rule("└", "┴", "┘")], "\n");
  }
})();

const INSPECT_DEFAULTS_FOR_CONSOLE = {};
