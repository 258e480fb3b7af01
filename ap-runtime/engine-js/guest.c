// The guest of the code sandbox: QuickJS-ng in one WebAssembly linear memory, running one step per instance.
//
// `init` runs once, when the engine is built; the memory it leaves behind is the committed snapshot. The host then makes a
// fresh instance for each step, asks `alloc` for a buffer, fills it, and calls `compile`, `run` or `evaluate` in it. A step
// that waits for the host returns `WAITING`; the host goes on with it through `settle`.
//
// Everything the guest can reach outside its memory is the six imports below. The host trusts none of their arguments.

#include <stdint.h>

// What the snapshot holds lives as long as the instance: its reference counts are neither kept nor looked at (the build has
// `JS_REF_COUNT` ask here), its blocks never freed, and the collector does not walk it; what it refers to is kept. So a step
// writes to its pages only where it changes an object. The counter stands for all of theirs: it is far from 1, which says that
// something may be changed in place, and from what as many references as fit the memory add or take away.
static const char *immortal_end; // NULL until the snapshot is complete
static int immortal_ref_count;
#define IS_IMMORTAL(at) ((const char *)(at) < immortal_end)

// How many columns of the text that is compiled stand before the author's first one; the build has the parser ask here.
static int columns_before;

// Has the engine ask for each block by itself (see `block_malloc`) instead of keeping a page of 4 KiB for each size of block: a
// step would touch as many pages as it has sizes.
#define __SANITIZE_ADDRESS__ 1
#include "quickjs.c" // one unit with the engine: `run` sets the context's private random state
#undef __SANITIZE_ADDRESS__

// The names of the scripts in stacks.
#define PLATFORM_SCRIPT "ap:platform"
#define STEP_SCRIPT "step.mjs"
#define EXPRESSION_SCRIPT "expression"

#define AP_IMPORT(name) __attribute__((import_module("ap"), import_name(#name)))
#define AP_EXPORT(name) __attribute__((export_name(#name)))

// An argument of a host call: bytes of this memory.
struct argument {
    const void *start;
    uint32_t length;
};

// Wall clock in microseconds since the Unix epoch. The host moves it on only while the step waits.
AP_IMPORT(now_us) extern double ap_now_us(void);
// One console line; `level` indexes the names in the prelude.
AP_IMPORT(console) extern void ap_console(int level, const char *text, size_t length);
// One part of the result; see `enum part`.
AP_IMPORT(report) extern void ap_report(int part, const void *bytes, size_t length);
// A host call. Answers with the length of the reply, or -1 minus the length of an error's text; `take` then copies it.
AP_IMPORT(call) extern int ap_call(int operation, const struct argument *arguments, int count);
// Copies the reply of the last `call` to `target`, which has room for it.
AP_IMPORT(take) extern void ap_take(void *target);
// Begins a host call that ends with a call of `settle`.
AP_IMPORT(start) extern void ap_start(int id, int operation, const struct argument *arguments, int count);

// The numbers are shared with `sandbox/guest.rs`.
enum part { PART_VALUE = 0, PART_NAME = 1, PART_MESSAGE = 2, PART_STACK = 3, PART_BYTECODE = 4 };
enum outcome {
    RETURNED = 0,
    THREW = 1,
    INVALID_SOURCE = 2,
    INVALID_PARAMS = 3,
    WAITING = 4,
    NO_FUNCTION = 5,
    NO_VALUE = 6,
};
enum unit { MODULE = 0, EXPRESSION = 1 };

// Cleared once it is compiled.
extern char prelude_js[];
extern const size_t prelude_js_length;
extern void __wasm_call_ctors(void);

static JSRuntime *runtime;
static JSContext *context;

// What the prelude gives to this side.
static JSValue prelude_settle, prelude_pick, prelude_modules, prelude_missing;

// The step under way: its module until it is evaluated, then the result of its function.
static JSModuleDef *step_module;
static JSValue step_params, step_context, step_promise;

// Called by the libc shim for `gettimeofday` and `clock_gettime`.
double __rquickjs_host_now_us(void) { return ap_now_us(); }

static void report_text(enum part part, JSValueConst value) {
    size_t length;
    const char *text = JS_ToCStringLen(context, &length, value);
    if (text) {
        ap_report(part, text, length);
        JS_FreeCString(context, text);
    } else {
        JS_FreeValue(context, JS_GetException(context));
    }
}

static void report_property(enum part part, JSValueConst object, const char *name) {
    JSValue value = JS_GetPropertyStr(context, object, name);
    if (JS_IsException(value))
        JS_FreeValue(context, JS_GetException(context));
    else if (!JS_IsUndefined(value))
        report_text(part, value);
    JS_FreeValue(context, value);
}

// Reports a thrown value, whatever it is, and consumes it.
static void report_thrown(JSValue thrown) {
    if (JS_IsObject(thrown)) {
        report_property(PART_NAME, thrown, "name");
        report_property(PART_MESSAGE, thrown, "message");
        report_property(PART_STACK, thrown, "stack");
    } else if (!JS_IsUninitialized(thrown)) {
        report_text(PART_MESSAGE, thrown);
    }
    JS_FreeValue(context, thrown);
}

static enum outcome fail(enum outcome outcome) {
    report_thrown(JS_GetException(context));
    return outcome;
}

static void run_jobs(void) {
    JSContext *ran;
    int status;
    while ((status = JS_ExecutePendingJob(runtime, &ran)) != 0)
        if (status < 0)
            JS_FreeValue(context, JS_GetException(context)); // the job's promise, if any, carries the error
}

// Makes `value` a promise, as `await` would, also if it is a foreign thenable. A real promise is taken as it is, whatever
// became of `Promise.prototype.then`. Consumes `value`.
static JSValue promise_of(JSValue value) {
    if (JS_IsPromise(value))
        return value;
    JSValue resolvers[2];
    JSValue promise = JS_NewPromiseCapability(context, resolvers);
    if (JS_IsException(promise))
        return promise;
    JSValue ignored = JS_Call(context, resolvers[0], JS_UNDEFINED, 1, (JSValueConst *)&value);
    JS_FreeValue(context, resolvers[0]);
    JS_FreeValue(context, resolvers[1]);
    JS_FreeValue(context, value);
    if (JS_IsException(ignored)) {
        JS_FreeValue(context, promise);
        return JS_EXCEPTION;
    }
    return promise;
}

// `absent` is the outcome for what JSON cannot say: `undefined`, a function, a symbol. `RETURNED` reports it as null.
static enum outcome report_json(JSValueConst value, enum outcome absent) {
    JSValue text = JS_JSONStringify(context, value, JS_UNDEFINED, JS_UNDEFINED);
    if (JS_IsException(text))
        return fail(THREW);
    if (JS_IsUndefined(text)) {
        if (absent == RETURNED)
            ap_report(PART_VALUE, "null", 4);
        return absent;
    }
    size_t length;
    const char *bytes = JS_ToCStringLen(context, &length, text);
    if (!bytes)
        return fail(THREW);
    ap_report(PART_VALUE, bytes, length);
    return RETURNED;
}

// Calls the step's function, once its module is evaluated.
static enum outcome call_step(void) {
    JSValue arguments[3] = {JS_GetModuleNamespace(context, step_module), step_context, step_params};
    step_module = NULL;
    if (JS_IsException(arguments[0]))
        return fail(THREW);
    JSValue picked = JS_Call(context, prelude_pick, JS_UNDEFINED, 2, (JSValueConst *)arguments);
    if (JS_IsException(picked))
        return fail(THREW);
    if (JS_IsUndefined(picked))
        return NO_FUNCTION;
    JSValue function = JS_GetPropertyUint32(context, picked, 0);
    JSValue given[2] = {step_params, JS_GetPropertyUint32(context, picked, 1)};
    JSValue result = JS_Call(context, function, JS_UNDEFINED, 2, (JSValueConst *)given);
    JS_FreeValue(context, picked);
    JS_FreeValue(context, function);
    JS_FreeValue(context, given[1]);
    if (JS_IsException(result))
        return fail(THREW);
    step_promise = promise_of(result);
    return JS_IsException(step_promise) ? fail(THREW) : RETURNED;
}

// Runs what can run, up to the step's end or until only the host can go on.
static enum outcome go_on(void) {
    for (;;) {
        run_jobs();
        JSValue promise = step_promise;
        switch (JS_PromiseState(context, promise)) {
        case JS_PROMISE_FULFILLED:
            if (!step_module)
                return report_json(JS_PromiseResult(context, promise), RETURNED);
            enum outcome called = call_step();
            if (called != RETURNED)
                return called;
            break;
        case JS_PROMISE_REJECTED:
            report_thrown(JS_PromiseResult(context, promise));
            return THREW;
        default:
            return WAITING;
        }
    }
}

static char *module_name(JSContext *ctx, const char *base, const char *name, void *opaque) {
    return js_strdup(ctx, strncmp(name, "node:", 5) == 0 ? name + 5 : name);
}

// The prelude's module of this name; `undefined` if there is none.
static JSValue platform_module(JSAtom name) {
    JSPropertyDescriptor found;
    int known = JS_GetOwnProperty(context, &found, prelude_modules, name);
    if (known < 0)
        return JS_EXCEPTION;
    if (!known)
        return JS_UNDEFINED;
    JS_FreeValue(context, found.getter);
    JS_FreeValue(context, found.setter);
    JS_FreeValue(context, found.value);
    return JS_GetProperty(context, prelude_modules, name);
}

static int fill_module(JSContext *ctx, JSModuleDef *module) {
    JSAtom name = JS_GetModuleName(ctx, module);
    JSValue exports = platform_module(name);
    JS_FreeAtom(ctx, name);
    JSPropertyEnum *members;
    uint32_t count;
    if (!JS_IsObject(exports) ||
        JS_GetOwnPropertyNames(ctx, &members, &count, exports, JS_GPN_STRING_MASK | JS_GPN_ENUM_ONLY))
        return -1;
    int status = JS_SetModuleExport(ctx, module, "default", js_dup(exports));
    for (uint32_t i = 0; i < count && status == 0; i++) {
        const char *member = JS_AtomToCString(ctx, members[i].atom);
        JSValue value = JS_GetProperty(ctx, exports, members[i].atom);
        if (!member || JS_IsException(value))
            status = -1;
        else if (strcmp(member, "default") != 0)
            status = JS_SetModuleExport(ctx, module, member, value);
        JS_FreeCString(ctx, member);
    }
    JS_FreePropertyEnum(ctx, members, count);
    JS_FreeValue(ctx, exports);
    return status;
}

static JSModuleDef *load_module(JSContext *ctx, const char *name, void *opaque) {
    JSAtom atom = JS_NewAtom(ctx, name);
    JSValue exports = platform_module(atom);
    JS_FreeAtom(ctx, atom);
    if (JS_IsException(exports))
        return NULL;
    if (!JS_IsObject(exports)) {
        JSValue text = JS_NewString(ctx, name);
        JSValue error = JS_Call(ctx, prelude_missing, JS_UNDEFINED, 1, (JSValueConst *)&text);
        JS_FreeValue(ctx, text);
        if (!JS_IsException(error))
            JS_Throw(ctx, error);
        return NULL;
    }
    JSModuleDef *module = JS_NewCModule(ctx, name, fill_module);
    JSPropertyEnum *members;
    uint32_t count;
    if (!module || JS_AddModuleExport(ctx, module, "default") ||
        JS_GetOwnPropertyNames(ctx, &members, &count, exports, JS_GPN_STRING_MASK | JS_GPN_ENUM_ONLY))
        return NULL;
    for (uint32_t i = 0; i < count && module; i++) {
        const char *member = JS_AtomToCString(ctx, members[i].atom);
        if (!member || (strcmp(member, "default") != 0 && JS_AddModuleExport(ctx, module, member)))
            module = NULL;
        JS_FreeCString(ctx, member);
    }
    JS_FreePropertyEnum(ctx, members, count);
    JS_FreeValue(ctx, exports);
    return module;
}

// Neighbouring seeds must not give neighbouring sequences, and the engine's generator must not start at zero.
static uint64_t spread_seed(uint64_t seed) {
    seed += 0x9e3779b97f4a7c15;
    seed = (seed ^ (seed >> 30)) * 0xbf58476d1ce4e5b9;
    seed = (seed ^ (seed >> 27)) * 0x94d049bb133111eb;
    seed ^= seed >> 31;
    return seed ? seed : 1;
}

// The bytes of a view, an ArrayBuffer or nothing; no code of the step runs. A detached buffer has no bytes.
static struct argument bytes_of(JSContext *ctx, JSValueConst value) {
    struct argument bytes = {NULL, 0};
    size_t offset = 0, length = 0, size;
    if (!JS_IsObject(value))
        return bytes;
    JSValue buffer;
    if (JS_IsArrayBuffer(value)) {
        buffer = js_dup(value);
    } else {
        buffer = JS_GetTypedArrayBuffer(ctx, value, &offset, &length, NULL);
        if (JS_IsException(buffer)) {
            JS_FreeValue(ctx, JS_GetException(ctx));
            return bytes;
        }
    }
    uint8_t *start = JS_GetArrayBuffer(ctx, &size, buffer);
    if (!start)
        JS_FreeValue(ctx, JS_GetException(ctx));
    else if (JS_IsArrayBuffer(value))
        bytes = (struct argument){start, size};
    else if (offset <= size && length <= size - offset)
        bytes = (struct argument){start + offset, length};
    JS_FreeValue(ctx, buffer); // `value` keeps it
    return bytes;
}

#define MAX_ARGUMENTS 8

struct arguments {
    struct argument list[MAX_ARGUMENTS];
    const char *texts[MAX_ARGUMENTS];
    int count;
};

static void free_arguments(JSContext *ctx, struct arguments *arguments) {
    for (int i = 0; i < arguments->count; i++)
        JS_FreeCString(ctx, arguments->texts[i]);
}

static int read_arguments(JSContext *ctx, struct arguments *arguments, int argc, JSValueConst *argv) {
    memset(arguments, 0, sizeof *arguments);
    for (int i = 0; i < argc && i < MAX_ARGUMENTS; i++) {
        arguments->count = i + 1;
        if (!JS_IsString(argv[i])) {
            arguments->list[i] = bytes_of(ctx, argv[i]);
            continue;
        }
        size_t length;
        arguments->texts[i] = JS_ToCStringLen(ctx, &length, argv[i]);
        if (!arguments->texts[i]) {
            free_arguments(ctx, arguments);
            return -1;
        }
        arguments->list[i] = (struct argument){arguments->texts[i], length};
    }
    return 0;
}

static JSValue js_console(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv) {
    int32_t level;
    size_t length;
    if (JS_ToInt32(ctx, &level, argv[0]))
        return JS_EXCEPTION;
    const char *text = JS_ToCStringLen(ctx, &length, argv[1]);
    if (!text)
        return JS_EXCEPTION;
    ap_console(level, text, length);
    JS_FreeCString(ctx, text);
    return JS_UNDEFINED;
}

// host.call(operation, ...arguments): an ArrayBuffer, or an error's text.
static JSValue js_call(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv) {
    int32_t operation;
    struct arguments arguments;
    if (JS_ToInt32(ctx, &operation, argv[0]) || read_arguments(ctx, &arguments, argc - 1, argv + 1))
        return JS_EXCEPTION;
    int answer = ap_call(operation, arguments.list, arguments.count);
    free_arguments(ctx, &arguments);
    size_t length = answer < 0 ? -(answer + 1) : answer;
    uint8_t *bytes = js_malloc(ctx, length + 1);
    if (!bytes)
        return JS_EXCEPTION;
    ap_take(bytes);
    if (answer >= 0)
        return JS_NewArrayBuffer(ctx, bytes, length, 0, js_array_buffer_realloc, NULL, false);
    JSValue text = JS_NewStringLen(ctx, (char *)bytes, length);
    js_free(ctx, bytes);
    return text;
}

// host.start(id, operation, ...arguments)
static JSValue js_start(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv) {
    int32_t id, operation;
    struct arguments arguments;
    if (JS_ToInt32(ctx, &id, argv[0]) || JS_ToInt32(ctx, &operation, argv[1]) ||
        read_arguments(ctx, &arguments, argc - 2, argv + 2))
        return JS_EXCEPTION;
    ap_start(id, operation, arguments.list, arguments.count);
    free_arguments(ctx, &arguments);
    return JS_UNDEFINED;
}

// host.encode(text): UTF-8, lone surrogates as U+FFFD.
static JSValue js_encode(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv) {
    size_t length;
    const char *text = JS_ToCStringLen(ctx, &length, argv[0]);
    if (!text)
        return JS_EXCEPTION;
    JSValue buffer = JS_NewArrayBufferCopy(ctx, (const uint8_t *)text, length);
    JS_FreeCString(ctx, text);
    size_t size;
    uint8_t *bytes = JS_GetArrayBuffer(ctx, &size, buffer);
    // The engine writes a lone surrogate as three bytes of its own; U+FFFD has as many.
    for (size_t i = 0; bytes && i + 2 < size; i++)
        if (bytes[i] == 0xed && bytes[i + 1] >= 0xa0)
            memcpy(bytes + i, "\xef\xbf\xbd", 3);
    return buffer;
}

// The length of the well-formed character at `at`, or minus the length of the ill-formed part that U+FFFD stands for
// (Unicode 3.9, "maximal subpart", as WHATWG Encoding asks).
static int character(const uint8_t *at, size_t left) {
    uint8_t first = at[0], low = 0x80, high = 0xbf;
    int needed;
    if (first < 0x80)
        return 1;
    if (first >= 0xc2 && first <= 0xdf)
        needed = 1;
    else if ((first & 0xf0) == 0xe0)
        needed = 2;
    else if (first >= 0xf0 && first <= 0xf4)
        needed = 3;
    else
        return -1;
    if (first == 0xe0)
        low = 0xa0;
    else if (first == 0xed)
        high = 0x9f;
    else if (first == 0xf0)
        low = 0x90;
    else if (first == 0xf4)
        high = 0x8f;
    for (int i = 1; i <= needed; i++) {
        if ((size_t)i >= left || at[i] < low || at[i] > high)
            return -i;
        low = 0x80;
        high = 0xbf;
    }
    return needed + 1;
}

// host.decode(view, fatal, ignoreBom): the text of UTF-8 bytes.
static JSValue js_decode(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv) {
    struct argument bytes = bytes_of(ctx, argv[0]);
    const uint8_t *from = bytes.start;
    size_t length = bytes.length;
    if (!JS_ToBool(ctx, argv[2]) && length >= 3 && memcmp(from, "\xef\xbb\xbf", 3) == 0) {
        from += 3;
        length -= 3;
    }
    size_t ill_formed = 0;
    for (size_t i = 0; i < length;) {
        int step = character(from + i, length - i);
        ill_formed += step < 0;
        i += step < 0 ? -step : step;
    }
    if (!ill_formed)
        return JS_NewStringLen(ctx, (const char *)from, length);
    if (JS_ToBool(ctx, argv[1]))
        return JS_ThrowTypeError(ctx, "The encoded data was not valid for encoding utf-8");
    uint8_t *mended = js_malloc(ctx, length + 2 * ill_formed);
    if (!mended)
        return JS_EXCEPTION;
    size_t end = 0;
    for (size_t i = 0; i < length;) {
        int step = character(from + i, length - i);
        memcpy(mended + end, step < 0 ? (const uint8_t *)"\xef\xbf\xbd" : from + i, step < 0 ? 3 : step);
        end += step < 0 ? 3 : step;
        i += step < 0 ? -step : step;
    }
    JSValue text = JS_NewStringLen(ctx, (const char *)mended, end);
    js_free(ctx, mended);
    return text;
}

// Every intrinsic but `performance`: its origin would be frozen in the snapshot.
static JSContext *new_context(void) {
    JSContext *ctx = JS_NewContextRaw(runtime);
    if (!ctx || JS_AddIntrinsicBaseObjects(ctx) || JS_AddIntrinsicDate(ctx) || JS_AddIntrinsicEval(ctx) ||
        JS_AddIntrinsicRegExp(ctx) || JS_AddIntrinsicJSON(ctx) || JS_AddIntrinsicProxy(ctx) ||
        JS_AddIntrinsicMapSet(ctx) || JS_AddIntrinsicTypedArrays(ctx) || JS_AddIntrinsicPromise(ctx) ||
        JS_AddIntrinsicWeakRef(ctx) || JS_AddIntrinsicAToB(ctx))
        __builtin_trap();
    return ctx;
}

static void add_function(JSValueConst object, const char *name, JSCFunction *function, int length) {
    JS_SetPropertyStr(context, object, name, JS_NewCFunction(context, function, name, length));
}

// Memory that is zero again when it is freed, and then takes no room in the snapshot. Its size stands before each block.
#define HEADER 16

static void *tidy_malloc(void *opaque, size_t size) {
    char *block = malloc(HEADER + size);
    if (!block)
        return NULL;
    memcpy(block, &size, sizeof size);
    return block + HEADER;
}

static size_t tidy_size(const void *at) {
    size_t size = 0;
    if (at)
        memcpy(&size, (const char *)at - HEADER, sizeof size);
    return size;
}

static void tidy_free(void *opaque, void *at) {
    if (!at)
        return;
    size_t size = tidy_size(at);
    char *block = (char *)at - HEADER;
    memset(block, 0, HEADER + size);
    __asm__ volatile("" ::"r"(block) : "memory"); // or the compiler drops the writes before `free`
    free(block);
}

static void *tidy_calloc(void *opaque, size_t count, size_t size) {
    void *at = tidy_malloc(opaque, count * size);
    return at ? memset(at, 0, count * size) : NULL;
}

static void *tidy_realloc(void *opaque, void *at, size_t size) {
    void *moved = tidy_malloc(opaque, size);
    if (moved && at) {
        size_t old = tidy_size(at);
        memcpy(moved, at, old < size ? old : size);
        tidy_free(opaque, at);
    }
    return moved;
}

// The engine's memory. Small blocks are cut one after the other from large pieces, whatever their size, and wait in a list of
// their size once they are freed: what a step allocates lies side by side, on few pages. Four bytes before a block say how many
// steps of eight bytes it takes with them, and zero that it came from `malloc` by itself, its size before that.
#define LARGEST_SMALL 2048
#define PIECE (64 << 10)

struct freed {
    struct freed *next;
};
#define FREED_BYTES ((LARGEST_SMALL / 8 + 1) * sizeof(struct freed *))
static struct freed **freed; // by steps
static char *piece, *piece_end;

// Begins with nothing in it but a piece, whose first bytes are the lists.
static char *new_heap(void) {
    char *heap = malloc(PIECE);
    if (!heap)
        __builtin_trap();
    freed = memset(heap, 0, FREED_BYTES);
    piece = heap + (FREED_BYTES + 7) / 8 * 8 + 4; // blocks begin at multiples of eight
    piece_end = heap + PIECE;
    return heap;
}

static uint32_t *steps_of(const void *at) { return (uint32_t *)at - 1; }

static size_t block_size(const void *at) {
    if (!at)
        return 0;
    uint32_t steps = *steps_of(at);
    return steps ? steps * 8 - 4 : *(steps_of(at) - 1);
}

static void *block_malloc(void *opaque, size_t size) {
    if (size > LARGEST_SMALL - 4) {
        if (size > SIZE_MAX - 8)
            return NULL;
        uint32_t *large = malloc(8 + size);
        if (!large)
            return NULL;
        large[0] = size;
        large[1] = 0;
        return large + 2;
    }
    uint32_t steps = (size + 4 + 7) / 8;
    struct freed *first = freed[steps];
    if (first) {
        freed[steps] = first->next;
        return first;
    }
    if (piece_end - piece < (ptrdiff_t)steps * 8) {
        char *next = malloc(PIECE);
        if (!next)
            return NULL;
        piece = next + 4; // blocks begin at multiples of eight
        piece_end = next + PIECE;
    }
    char *at = piece + 4;
    piece += steps * 8;
    *steps_of(at) = steps;
    return at;
}

static void block_free(void *opaque, void *at) {
    if (!at || IS_IMMORTAL(at))
        return;
    uint32_t steps = *steps_of(at);
    if (!steps) {
        free((uint32_t *)at - 2);
        return;
    }
    struct freed *first = at;
    first->next = freed[steps];
    freed[steps] = first;
}

static void *block_calloc(void *opaque, size_t count, size_t size) {
    size_t bytes; // the engine has checked the product; this is for whoever calls it next
    if (__builtin_mul_overflow(count, size, &bytes))
        return NULL;
    void *at = block_malloc(opaque, bytes);
    return at ? memset(at, 0, bytes) : NULL;
}

static void *block_realloc(void *opaque, void *at, size_t size) {
    size_t old = block_size(at);
    if (at && size > LARGEST_SMALL - 4 && !*steps_of(at) && !IS_IMMORTAL(at)) {
        uint32_t *large = size <= SIZE_MAX - 8 ? realloc((uint32_t *)at - 2, 8 + size) : NULL;
        if (!large)
            return NULL;
        large[0] = size;
        return large + 2;
    }
    if (at && size <= old && *steps_of(at))
        return at;
    void *moved = block_malloc(opaque, size);
    if (moved && at) {
        memcpy(moved, at, old < size ? old : size);
        block_free(opaque, at);
    }
    return moved;
}

// The prelude as bytecode, from a runtime of its own: what compiling leaves behind is gone, and so is the source, of which
// the engine keeps a copy for each function.
static uint8_t *compile_prelude(size_t *length) {
    const JSMallocFunctions tidy = {tidy_calloc, tidy_malloc, tidy_free, tidy_realloc, tidy_size};
    runtime = JS_NewRuntime2(&tidy, NULL);
    if (!runtime)
        __builtin_trap();
    JS_SetMaxStackSize(runtime, STACK_SIZE - STACK_RESERVE);
    context = new_context();
    JSValue compiled = JS_Eval(context, prelude_js, prelude_js_length, PLATFORM_SCRIPT,
                               JS_EVAL_TYPE_GLOBAL | JS_EVAL_FLAG_STRICT | JS_EVAL_FLAG_COMPILE_ONLY);
    uint8_t *written = NULL, *bytecode = NULL;
    if (JS_IsException(compiled))
        fail(INVALID_SOURCE); // the builder prints it
    else
        written = JS_WriteObject(context, length, compiled, JS_WRITE_OBJ_BYTECODE | JS_WRITE_OBJ_STRIP_SOURCE);
    if (written && (bytecode = malloc(*length)))
        memcpy(bytecode, written, *length);
    if (!bytecode)
        __builtin_trap();
    js_free(context, written);
    JS_FreeValue(context, compiled);
    JS_FreeContext(context);
    JS_FreeRuntime(runtime);
    memset(prelude_js, 0, prelude_js_length);
    return bytecode;
}

// Consumes the bytecode.
static JSValue evaluate_prelude(uint8_t *bytecode, size_t length) {
    JSValue read = JS_ReadObject(context, bytecode, length, JS_READ_OBJ_BYTECODE);
    memset(bytecode, 0, length);
    __asm__ volatile("" ::"r"(bytecode) : "memory");
    free(bytecode);
    return JS_IsException(read) ? read : JS_EvalFunction(context, read);
}

// Takes what is free between the blocks of the snapshot for good: a step's own blocks then lie side by side behind them, on few
// pages, each of which costs a copy.
static void close_gaps(void) {
    char *behind = malloc(1 << 20); // larger than any gap
    __asm__ volatile("" : "+r"(behind));
    if (!behind)
        __builtin_trap();
    for (size_t size = 1 << 16; size >= 8; size -= size > 1024 ? 1024 : 8) {
        for (;;) {
            char *block = malloc(size);
            __asm__ volatile("" : "+r"(block)); // or the compiler drops blocks that nobody uses
            if (!block)
                __builtin_trap();
            if (block < behind)
                continue;
            free(block);
            break;
        }
    }
    free(behind);
}

static struct list_head immortals;

// Makes all that is in memory immortal; see `immortal_end`. What the step allocates begins behind it.
static void complete_snapshot(void) {
    close_gaps();
    char *behind = new_heap();
    struct list_head *object;
    list_for_each(object, &runtime->gc_obj_list) {
        if ((char *)object >= behind)
            __builtin_trap();
    }
    for (int atom = 0; atom < runtime->atom_size; atom++)
        if (!atom_is_free(runtime->atom_array[atom]) && (char *)runtime->atom_array[atom] >= behind)
            __builtin_trap();
    // Into a list of their own, since some shapes leave theirs when they change.
    list_add(&immortals, &runtime->gc_obj_list);
    list_del(&runtime->gc_obj_list);
    init_list_head(&runtime->gc_obj_list);
    immortal_end = behind;
    immortal_ref_count = 1 << 30;
}

AP_EXPORT(init) void guest_init(void) {
    __wasm_call_ctors(); // called here, the linker does not wrap it around every export
    size_t length;
    uint8_t *bytecode = compile_prelude(&length);
    new_heap();
    const JSMallocFunctions blocks = {block_calloc, block_malloc, block_free, block_realloc, block_size};
    runtime = JS_NewRuntime2(&blocks, NULL);
    if (!runtime)
        __builtin_trap();
    JS_SetMaxStackSize(runtime, STACK_SIZE - STACK_RESERVE);
    JS_SetModuleLoaderFunc(runtime, module_name, load_module, NULL);
    context = new_context();
    JSValue setup = evaluate_prelude(bytecode, length);
    JSValue host = JS_NewObject(context);
    add_function(host, "write", js_console, 2);
    add_function(host, "call", js_call, 1);
    add_function(host, "start", js_start, 2);
    add_function(host, "encode", js_encode, 1);
    add_function(host, "decode", js_decode, 3);
    JSValue prelude = JS_IsException(setup) ? setup : JS_Call(context, setup, JS_UNDEFINED, 1, (JSValueConst *)&host);
    if (JS_IsException(prelude)) {
        fail(THREW); // the builder prints it
        __builtin_trap();
    }
    prelude_settle = JS_GetPropertyStr(context, prelude, "settle");
    prelude_pick = JS_GetPropertyStr(context, prelude, "pick");
    prelude_modules = JS_GetPropertyStr(context, prelude, "modules");
    prelude_missing = JS_GetPropertyStr(context, prelude, "missing");
    JS_FreeValue(context, prelude);
    JS_FreeValue(context, host);
    JS_FreeValue(context, setup);
    JS_RunGC(runtime);
    complete_snapshot();
    JS_SetGCThreshold(runtime, runtime->malloc_state.malloc_size + GC_THRESHOLD);
}

AP_EXPORT(alloc) char *guest_alloc(size_t length) { return block_malloc(NULL, length); }

// Strips the types of a source with the library's function, and gives back the JavaScript.
static JSValue translate(const char *source, size_t source_length, const char *library, size_t library_length) {
    JSValue compiled = JS_ReadObject(context, (const uint8_t *)library, library_length, JS_READ_OBJ_BYTECODE);
    if (JS_IsException(compiled))
        return compiled;
    JSValue function = JS_EvalFunction(context, compiled);
    if (JS_IsException(function))
        return function;
    JSValue text = JS_NewStringLen(context, source, source_length);
    JSValue translated = JS_Call(context, function, JS_UNDEFINED, 1, (JSValueConst *)&text);
    JS_FreeValue(context, function);
    JS_FreeValue(context, text);
    return translated;
}

static enum outcome report_bytecode(JSValue compiled) {
    size_t length;
    uint8_t *bytes = JS_WriteObject(context, &length, compiled, JS_WRITE_OBJ_BYTECODE | JS_WRITE_OBJ_STRIP_SOURCE);
    if (!bytes)
        return fail(INVALID_SOURCE);
    ap_report(PART_BYTECODE, bytes, length);
    return RETURNED;
}

static JSValue compile_only(const char *text, size_t length, enum unit unit) {
    if (unit == MODULE)
        return JS_Eval(context, text, length, STEP_SCRIPT, JS_EVAL_TYPE_MODULE | JS_EVAL_FLAG_COMPILE_ONLY);
    return JS_Eval(context, text, length, EXPRESSION_SCRIPT,
                   JS_EVAL_TYPE_GLOBAL | JS_EVAL_FLAG_STRICT | JS_EVAL_FLAG_COMPILE_ONLY);
}

// `open`, the text, a line break (it may end in a comment), `close`: compiled, and written if `writes`.
static enum outcome compile_between(const char *text, size_t length, char open, char close, bool writes) {
    char *wrapped = malloc(length + 4);
    if (!wrapped)
        __builtin_trap();
    wrapped[0] = open;
    memcpy(wrapped + 1, text, length);
    memcpy(wrapped + 1 + length, (char[]){'\n', close, 0}, 3);
    columns_before = 1;
    JSValue compiled = compile_only(wrapped, length + 3, EXPRESSION);
    columns_before = 0;
    if (JS_IsException(compiled))
        return fail(INVALID_SOURCE);
    return writes ? report_bytecode(compiled) : RETURNED;
}

// Compiles one unit and reports its bytecode. `input` holds the source, a zero, and the bytecode of the translator, if any.
// Nothing of the source runs.
AP_EXPORT(compile) int guest_compile(enum unit unit, const char *input, size_t source_length, size_t library_length) {
    JS_UpdateStackTop(runtime);
    if (unit == EXPRESSION) {
        // What is an expression between both kinds of brackets closes neither.
        enum outcome outcome = compile_between(input, source_length, '[', ']', false);
        return outcome == RETURNED ? compile_between(input, source_length, '(', ')', true) : outcome;
    }
    if (library_length == 0) {
        JSValue compiled = compile_only(input, source_length, unit);
        return JS_IsException(compiled) ? fail(INVALID_SOURCE) : report_bytecode(compiled);
    }
    JSValue translated = translate(input, source_length, input + source_length + 1, library_length);
    if (JS_IsException(translated))
        return fail(INVALID_SOURCE);
    size_t length;
    const char *text = JS_ToCStringLen(context, &length, translated);
    if (!text)
        return fail(INVALID_SOURCE);
    JSValue compiled = compile_only(text, length, unit);
    return JS_IsException(compiled) ? fail(INVALID_SOURCE) : report_bytecode(compiled);
}

// Runs one step. `input` holds its bytecode, a zero, the parameters as JSON, a zero, the context as JSON, a zero; lengths do
// not count the zeros.
AP_EXPORT(run)
int guest_run(char *input, size_t code_length, size_t params_length, size_t context_length, uint64_t seed) {
    char *params_json = input + code_length + 1, *context_json = params_json + params_length + 1;
    JS_UpdateStackTop(runtime);
    context->random_state = spread_seed(seed);

    step_params = JS_ParseJSON(context, params_json, params_length, "params");
    if (JS_IsException(step_params))
        return fail(INVALID_PARAMS);
    step_context = JS_ParseJSON(context, context_json, context_length, "context");
    if (JS_IsException(step_context))
        return fail(INVALID_PARAMS);
    JSValue compiled = JS_ReadObject(context, (uint8_t *)input, code_length, JS_READ_OBJ_BYTECODE);
    if (JS_IsException(compiled) || JS_ResolveModule(context, compiled))
        return fail(INVALID_SOURCE);
    step_module = JS_VALUE_GET_PTR(compiled);
    step_promise = JS_EvalFunction(context, compiled);
    if (JS_IsException(step_promise))
        return fail(INVALID_SOURCE); // an import that its module does not have
    return go_on();
}

// Ends the host call `id` with `length` bytes at `bytes`, from `alloc`, and goes on with the step.
AP_EXPORT(settle) int guest_settle(int id, int succeeded, uint8_t *bytes, size_t length) {
    JS_UpdateStackTop(runtime);
    JSValue arguments[3] = {
        JS_NewInt32(context, id),
        JS_NewBool(context, succeeded != 0),
        JS_NewArrayBufferCopy(context, bytes, length),
    };
    block_free(NULL, bytes);
    JSValue ignored = JS_Call(context, prelude_settle, JS_UNDEFINED, 3, (JSValueConst *)arguments);
    JS_FreeValue(context, arguments[2]);
    if (JS_IsException(ignored))
        return fail(THREW);
    return go_on();
}

// The members of `environment` become variables.
static int define_variables(JSValueConst environment) {
    JSPropertyEnum *members;
    uint32_t count;
    if (JS_GetOwnPropertyNames(context, &members, &count, environment, JS_GPN_STRING_MASK | JS_GPN_ENUM_ONLY))
        return -1;
    int status = 0;
    for (uint32_t i = 0; i < count && status >= 0; i++) {
        JSValue value = JS_GetProperty(context, environment, members[i].atom);
        status = JS_DefinePropertyValue(context, context->global_obj, members[i].atom, value, JS_PROP_C_W_E);
    }
    JS_FreePropertyEnum(context, members, count);
    return status;
}

// Evaluates one expression. `input` holds its bytecode, a zero, the variables as a JSON object, a zero. May be called again.
AP_EXPORT(evaluate)
int guest_evaluate(char *input, size_t code_length, size_t environment_length, uint64_t seed) {
    JS_UpdateStackTop(runtime);
    context->random_state = spread_seed(seed);
    JSValue environment = JS_ParseJSON(context, input + code_length + 1, environment_length, "environment");
    if (JS_IsException(environment))
        return fail(INVALID_PARAMS);
    JSValue compiled = JS_ReadObject(context, (uint8_t *)input, code_length, JS_READ_OBJ_BYTECODE);
    block_free(NULL, input);
    if (JS_IsException(compiled))
        return fail(INVALID_SOURCE);
    if (define_variables(environment) < 0)
        return fail(THREW);
    JSValue result = JS_EvalFunction(context, compiled);
    JS_FreeValue(context, environment);
    if (JS_IsException(result))
        return fail(THREW);
    enum outcome outcome = report_json(result, NO_VALUE);
    JS_FreeValue(context, result);
    return outcome;
}
