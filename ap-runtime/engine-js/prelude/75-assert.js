// The module `assert`. Messages say what was expected and found; they are not Node's line-by-line differences.

class AssertionError extends ErrorClass {
  constructor(options) {
    if (typeof options !== "object" || options === null) throw argumentError("options", "of type object", options);
    const { message, actual, expected, operator } = options;
    super(message !== undefined ? StringOf(message) : assertionMessage(operator, actual, expected));
    this.generatedMessage = message === undefined;
    this.code = "ERR_ASSERTION";
    this.actual = actual;
    this.expected = expected;
    this.operator = operator;
  }
  toString() {
    return `${this.name} [${this.code}]: ${this.message}`;
  }
}
defineProperty(AssertionError.prototype, "name", { value: "AssertionError", writable: true, configurable: true });

const ASSERTIONS = {
  __proto__: null,
  strictEqual: "Expected values to be strictly equal:",
  deepStrictEqual: "Expected values to be strictly deep-equal:",
  deepEqual: "Expected values to be loosely deep-equal:",
  notStrictEqual: 'Expected "actual" to be strictly unequal to:',
  notDeepStrictEqual: 'Expected "actual" not to be strictly deep-equal to:',
  notDeepEqual: 'Expected "actual" not to be loosely deep-equal to:',
};

function assertionMessage(operator, actual, expected) {
  const intro = ASSERTIONS[operator];
  if (operator === "==" || operator === "!=") return `${inspect(actual)} ${operator} ${inspect(expected)}`;
  if (intro === undefined) return "Failed";
  if (sliceText(operator, 0, 3) === "not") return `${intro} ${inspect(expected)}`;
  return `${intro}\n\n${inspect(actual)} !== ${inspect(expected)}\n`;
}

function failAssertion(message, fields) {
  if (message instanceof ErrorClass) throw message;
  throw new AssertionError({ ...fields, message });
}

function assert(value, message) {
  if (value) return;
  if (arguments.length === 0)
    failAssertion("No value argument passed to `assert.ok()`", { actual: value, expected: true, operator: "==" });
  failAssertion(message ?? "The expression evaluated to a falsy value", { actual: value, expected: true, operator: "==" });
}

const comparison = (operator, holds) => (actual, expected, message) => {
  if (!holds(actual, expected)) failAssertion(message, { actual, expected, operator });
};

const looseEqual = (left, right) => left == right || (left !== left && right !== right);

// Whether an error is what a test asked for: a class, a pattern, a function that judges, or members to have.
function checkError(error, expected, message) {
  if (expected === undefined) return;
  const wrong = (why) => failAssertion(message ?? why, { actual: error, expected, operator: "throws" });
  if (classOf(expected) === "RegExp") {
    if (!matches(expected, StringOf(error)))
      wrong(`The input did not match the regular expression ${inspect(expected)}. Input:\n\n${inspect(StringOf(error))}\n`);
    return;
  }
  if (typeof expected === "object") {
    if (typeof error !== "object" || error === null) wrong(`The error is ${inspect(error)}, not an object`);
    const keys = expected instanceof ErrorClass ? ["name", "message", ...objectKeys(expected)] : objectKeys(expected);
    if (keys.length === 0) throw valueError("error", expected, "may not be an empty object");
    for (const key of keys) {
      const isPattern = classOf(Object(expected[key])) === "RegExp" && typeof error[key] === "string";
      if (isPattern ? !matches(expected[key], error[key]) : !deepEqual(error[key], expected[key], true))
        wrong(`The error's ${key} is ${inspect(error[key])}, expected ${inspect(expected[key])}`);
    }
    return;
  }
  if (expected.prototype !== undefined && error instanceof expected) return;
  if (expected === ErrorClass || ErrorClass.isPrototypeOf(expected))
    return wrong(
      `The error is expected to be an instance of "${expected.name}". Received "${error?.constructor?.name ?? error}"\n\nError message:\n\n${error?.message}`,
    );
  if (apply(expected, {}, [error]) !== true)
    wrong(`The ${expected.name ? `"${expected.name}" ` : ""}validation function is expected to return "true".`);
}

function expectation(expected, message) {
  if (typeof expected === "string") return [undefined, expected];
  if (expected !== undefined && typeof expected !== "function" && typeof expected !== "object")
    throw argumentError("expected", "of type function or an instance of Error, RegExp, or Object", expected);
  return [expected, message];
}

function throwsNothing(operator, expected, message) {
  const what = operator === "rejects" ? "rejection" : "exception";
  const named = typeof expected === "function" && expected.name ? ` (${expected.name})` : "";
  failAssertion(
    message === undefined || message instanceof ErrorClass
      ? (message ?? `Missing expected ${what}${named}.`)
      : `Missing expected ${what}${named}: ${message}`,
    {
      actual: undefined,
      expected,
      operator,
    },
  );
}

const unwanted = (operator, error, message) =>
  failAssertion(
    `Got unwanted ${operator === "doesNotReject" ? "rejection" : "exception"}${message ? `: ${message}` : "."}\nActual message: "${error?.message}"`,
    {
      actual: error,
      expected: undefined,
      operator,
    },
  );

assign(assert, {
  ok: assert,
  AssertionError,
  equal: comparison("==", looseEqual),
  notEqual: comparison("!=", (left, right) => !looseEqual(left, right)),
  strictEqual: comparison("strictEqual", is),
  notStrictEqual: comparison("notStrictEqual", (left, right) => !is(left, right)),
  deepEqual: comparison("deepEqual", (left, right) => deepEqual(left, right, false)),
  notDeepEqual: comparison("notDeepEqual", (left, right) => !deepEqual(left, right, false)),
  deepStrictEqual: comparison("deepStrictEqual", (left, right) => deepEqual(left, right, true)),
  notDeepStrictEqual: comparison("notDeepStrictEqual", (left, right) => !deepEqual(left, right, true)),

  fail(message = "Failed") {
    failAssertion(message, { actual: undefined, expected: undefined, operator: "fail" });
  },
  ifError(value) {
    if (value === null || value === undefined) return;
    failAssertion(`ifError got unwanted exception: ${value instanceof ErrorClass ? value.message : inspect(value)}`, {
      actual: value,
      expected: null,
      operator: "ifError",
    });
  },
  throws(run, wanted, text) {
    checkFunction(run, "fn");
    const [expected, message] = expectation(wanted, text);
    let error;
    try {
      run();
    } catch (thrown) {
      error = { thrown };
    }
    if (error === undefined) throwsNothing("throws", expected, message);
    checkError(error.thrown, expected, message);
  },
  doesNotThrow(run, wanted, text) {
    checkFunction(run, "fn");
    const [, message] = expectation(wanted, text);
    try {
      run();
    } catch (error) {
      unwanted("doesNotThrow", error, message);
    }
  },
  async rejects(source, wanted, text) {
    const [expected, message] = expectation(wanted, text);
    const promise = await notAwaited(source);
    let error;
    try {
      await promise.value;
    } catch (thrown) {
      error = { thrown };
    }
    if (error === undefined) throwsNothing("rejects", expected, message);
    checkError(error.thrown, expected, message);
  },
  async doesNotReject(source, wanted, text) {
    const [, message] = expectation(wanted, text);
    const promise = await notAwaited(source);
    try {
      await promise.value;
    } catch (error) {
      unwanted("doesNotReject", error, message);
    }
  },
  match(text, pattern, message) {
    if (classOf(Object(pattern)) !== "RegExp") throw argumentError("regexp", "an instance of RegExp", pattern);
    if (typeof text !== "string" || !matches(pattern, text))
      failAssertion(
        message ?? `The input did not match the regular expression ${inspect(pattern)}. Input:\n\n${inspect(text)}\n`,
        { actual: text, expected: pattern, operator: "match" },
      );
  },
  doesNotMatch(text, pattern, message) {
    if (classOf(Object(pattern)) !== "RegExp") throw argumentError("regexp", "an instance of RegExp", pattern);
    if (typeof text !== "string" || matches(pattern, text))
      failAssertion(
        message ??
          `The input was expected to not match the regular expression ${inspect(pattern)}. Input:\n\n${inspect(text)}\n`,
        { actual: text, expected: pattern, operator: "doesNotMatch" },
      );
  },
});

// The promise in a box: returned bare from an async function it would be waited for.
async function notAwaited(source) {
  const value = typeof source === "function" ? source() : source;
  if (typeof value?.then !== "function") throw argumentError("promiseFn", "of type function or an instance of Promise", value);
  return { value };
}

const strictAssert = (...args) => apply(assert, undefined, args);
assign(strictAssert, assert, {
  ok: strictAssert,
  equal: assert.strictEqual,
  notEqual: assert.notStrictEqual,
  deepEqual: assert.deepStrictEqual,
  notDeepEqual: assert.notDeepStrictEqual,
});
strictAssert.strict = assert.strict = strictAssert;
