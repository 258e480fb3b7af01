// What `import` and `require` find, and what is said of the rest.

const modules = {
  __proto__: null,
  assert,
  "assert/strict": strictAssert,
  buffer: {
    Buffer,
    Blob,
    File,
    SlowBuffer: Buffer,
    atob,
    btoa,
    kMaxLength: MAX_BUFFER,
    kStringMaxLength: 2 ** 29 - 24,
    constants: { MAX_LENGTH: MAX_BUFFER, MAX_STRING_LENGTH: 2 ** 29 - 24 },
    INSPECT_MAX_BYTES: 50,
    isUtf8(input) {
      try {
        hostDecode(bufferSource(input, "input"), true, true);
        return true;
      } catch {
        return false;
      }
    },
    isAscii: (input) => bufferSource(input, "input").every((byte) => byte < 128),
    transcode(source, from, to) {
      const bytes = needBytes(source, "source");
      return asBuffer(encodeText(decodeText(bytes, knownEncoding(from)), knownEncoding(to)));
    },
  },
  console,
  crypto: nodeCrypto,
  events: EventEmitter,
  path,
  "path/posix": path,
  perf_hooks: { performance },
  process,
  querystring,
  string_decoder: { StringDecoder },
  timers: { setTimeout, setInterval, setImmediate, clearTimeout, clearInterval, clearImmediate, promises: timersPromises },
  "timers/promises": timersPromises,
  url: urlModule,
  util,
  "util/types": types,
  "@ap/mask": mask,
};

const ABSENT = {
  __proto__: null,
  "pg mysql mysql2 mysql2/promise mariadb sqlite3 better-sqlite3 mongodb mongoose mssql knex sequelize typeorm prisma @prisma/client redis ioredis":
    "use a database step, which holds the connection and its password",
  "nodemailer @sendgrid/mail resend": "use an email step",
  "axios node-fetch got request undici superagent ky cross-fetch isomorphic-fetch": "use the global fetch()",
  "http https http2 net tls dns dgram dns/promises": "use the global fetch()",
  "fs fs/promises": "a code step has no file system: a storage step reads and writes files",
  "node-vault @aws-sdk/client-secrets-manager @google-cloud/secret-manager @azure/keyvault-secrets dotenv":
    "give a connection a reference to the secret; the step gets a placeholder that fetch() and crypto take",
  "express-rate-limit rate-limiter-flexible bottleneck p-limit":
    "limits of rate and concurrency are settings of the trigger and the flow",
  "express fastify koa hono": "the flow's webhook trigger receives requests, and a respond step answers them",
  "@aws-sdk/client-s3 aws-sdk @google-cloud/storage": "use a storage step",
  "child_process cluster worker_threads vm repl module inspector v8 wasi os":
    "a code step cannot start programs or look at the machine",
  "jsonwebtoken jose": "sign with crypto.createHmac(), or let the connection sign the request",
  "bcrypt bcryptjs argon2": "use crypto.scrypt()",
  "uuid nanoid": "use crypto.randomUUID()",
  "moment dayjs date-fns luxon": "use Date and Intl.DateTimeFormat",
  "lodash underscore ramda": "use the methods of Array and Object",
  "stream stream/promises zlib readline": "there are no streams; use whole texts and Buffers",
};

// The error about a module that is not there.
function missing(name) {
  const text = StringOf(name);
  const plain = sliceText(text, 0, 5) === "node:" ? sliceText(text, 5) : text;
  let advice = `there are ${join(objectKeys(modules), ", ")}`;
  if (matches(/^(?:\.|\/|[a-z]+:)/, plain)) advice = "a code step is one file";
  for (const names of objectKeys(ABSENT)) if (arrayHas(splitText(names, " "), plain)) advice = ABSENT[names];
  return nodeError(
    ErrorClass,
    "MODULE_NOT_FOUND",
    `module '${text.length > 100 ? `${sliceText(text, 0, 100)}…` : text}' is not available in a code step: ${advice}`,
  );
}

function require(name) {
  checkString(name, "id");
  const plain = sliceText(name, 0, 5) === "node:" ? sliceText(name, 5) : name;
  if (!(plain in modules)) throw missing(name);
  return modules[plain];
}
require.resolve = (name) => (require(name), name);
require.cache = nothing;
