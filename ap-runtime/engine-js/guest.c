// The guest of the code sandbox: QuickJS-ng in one WebAssembly linear memory, running one step per instance.
//
// `init` runs once, when the engine is built; the memory it leaves behind is the committed snapshot. The host then makes a
// fresh instance for each step, asks `alloc` for a buffer, fills it, and calls `run` once.
//
// Everything the guest can reach outside its memory is the three imports below. The host trusts none of their arguments.

#include "quickjs.c" // one unit with the engine: `run` sets the context's private random state

#define AP_IMPORT(name) __attribute__((import_module("ap"), import_name(#name)))
#define AP_EXPORT(name) __attribute__((export_name(#name)))

// Wall clock in microseconds since the Unix epoch. The host freezes it for the length of a step.
AP_IMPORT(now_us) extern double ap_now_us(void);
// One console line; `level` indexes the names in prelude.js.
AP_IMPORT(console) extern void ap_console(int level, const char *text, size_t length);
// One part of the step's result; see `enum part`.
AP_IMPORT(report) extern void ap_report(int part, const char *text, size_t length);

// The numbers are shared with `sandbox/guest.rs`.
enum part { PART_VALUE = 0, PART_NAME = 1, PART_MESSAGE = 2, PART_STACK = 3 };
enum outcome { RETURNED = 0, THREW = 1, INVALID_SOURCE = 2, INVALID_PARAMS = 3, UNSETTLED = 4, NO_FUNCTION = 5 };

extern const char prelude_js[];
extern const size_t prelude_js_length;
extern void __wasm_call_ctors(void);

static JSRuntime *runtime;
static JSContext *context;

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

// Runs jobs until `promise` settles; nothing but jobs can settle it. Leaves a fulfilled value in `*value`.
static enum outcome settle(JSValueConst promise, JSValue *value) {
    run_jobs();
    switch (JS_PromiseState(context, promise)) {
    case JS_PROMISE_FULFILLED:
        *value = JS_PromiseResult(context, promise);
        return RETURNED;
    case JS_PROMISE_REJECTED:
        report_thrown(JS_PromiseResult(context, promise));
        return THREW;
    default:
        return UNSETTLED;
    }
}

// `await value`, also for foreign thenables. A real promise is settled whatever became of `Promise.prototype.then`.
static enum outcome await_value(JSValue value, JSValue *settled) {
    if (JS_IsPromise(value))
        return settle(value, settled);
    JSValue resolvers[2];
    JSValue promise = JS_NewPromiseCapability(context, resolvers);
    if (JS_IsException(promise))
        return fail(THREW);
    JSValue ignored = JS_Call(context, resolvers[0], JS_UNDEFINED, 1, (JSValueConst *)&value);
    if (JS_IsException(ignored))
        return fail(THREW);
    return settle(promise, settled);
}

static enum outcome report_json(JSValueConst value) {
    JSValue text = JS_JSONStringify(context, value, JS_UNDEFINED, JS_UNDEFINED);
    if (JS_IsException(text))
        return fail(THREW);
    if (JS_IsUndefined(text)) {
        ap_report(PART_VALUE, "null", 4); // `undefined`, a function or a symbol
        return RETURNED;
    }
    size_t length;
    const char *bytes = JS_ToCStringLen(context, &length, text);
    if (!bytes)
        return fail(THREW);
    ap_report(PART_VALUE, bytes, length);
    return RETURNED;
}

// Finds the function to run: the export named `code`, else the default one.
static JSValue step_function(JSModuleDef *module) {
    JSValue exports = JS_GetModuleNamespace(context, module);
    if (JS_IsException(exports))
        return exports;
    JSValue function = JS_GetPropertyStr(context, exports, "code");
    if (JS_IsUndefined(function))
        function = JS_GetPropertyStr(context, exports, "default");
    return function;
}

static char *no_import_path(JSContext *ctx, const char *base, const char *name, void *opaque) {
    return js_strdup(ctx, name);
}

static JSModuleDef *no_import(JSContext *ctx, const char *name, void *opaque) {
    JS_ThrowReferenceError(ctx, "module '%s' is not available in a code step", name);
    return NULL;
}

// Neighbouring seeds must not give neighbouring sequences, and the engine's generator must not start at zero.
static uint64_t spread_seed(uint64_t seed) {
    seed += 0x9e3779b97f4a7c15;
    seed = (seed ^ (seed >> 30)) * 0xbf58476d1ce4e5b9;
    seed = (seed ^ (seed >> 27)) * 0x94d049bb133111eb;
    seed ^= seed >> 31;
    return seed ? seed : 1;
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

AP_EXPORT(init) void guest_init(void) {
    __wasm_call_ctors(); // called here, the linker does not wrap it around every export
    runtime = JS_NewRuntime();
    if (!runtime)
        __builtin_trap();
    JS_SetMaxStackSize(runtime, STACK_SIZE - STACK_RESERVE);
    JS_SetModuleLoaderFunc(runtime, no_import_path, no_import, NULL);
    context = new_context();
    JSValue setup = JS_Eval(context, prelude_js, prelude_js_length, "prelude.js", JS_EVAL_TYPE_GLOBAL | JS_EVAL_FLAG_STRICT);
    JSValue console = JS_NewCFunction(context, js_console, "console", 2);
    JSValue done = JS_Call(context, setup, JS_UNDEFINED, 1, (JSValueConst *)&console);
    if (JS_IsException(done)) {
        fail(THREW); // the builder prints it
        __builtin_trap();
    }
    JS_FreeValue(context, console);
    JS_FreeValue(context, setup);
    JS_RunGC(runtime);
    JS_SetGCThreshold(runtime, GC_THRESHOLD);
}

AP_EXPORT(alloc) char *guest_alloc(size_t length) { return malloc(length); }

// Runs one step. `input` holds the source, a zero, the parameters as JSON, a zero; lengths do not count the zeros.
AP_EXPORT(run) int guest_run(char *input, size_t source_length, size_t params_length, uint64_t seed) {
    char *params_json = input + source_length + 1;
    JS_UpdateStackTop(runtime);
    context->random_state = spread_seed(seed);

    JSValue params = JS_ParseJSON(context, params_json, params_length, "params");
    if (JS_IsException(params))
        return fail(INVALID_PARAMS);
    JSValue compiled = JS_Eval(context, input, source_length, "step.mjs", JS_EVAL_TYPE_MODULE | JS_EVAL_FLAG_COMPILE_ONLY);
    if (JS_IsException(compiled))
        return fail(INVALID_SOURCE);
    JSModuleDef *module = JS_VALUE_GET_PTR(compiled);

    JSValue settled;
    JSValue evaluated = JS_EvalFunction(context, compiled);
    if (JS_IsException(evaluated))
        return fail(THREW);
    enum outcome outcome = settle(evaluated, &settled);
    if (outcome != RETURNED)
        return outcome;

    JSValue function = step_function(module);
    if (JS_IsException(function))
        return fail(THREW);
    if (!JS_IsFunction(context, function))
        return NO_FUNCTION;
    JSValue result = JS_Call(context, function, JS_UNDEFINED, 1, (JSValueConst *)&params);
    if (JS_IsException(result))
        return fail(THREW);
    outcome = await_value(result, &settled);
    return outcome == RETURNED ? report_json(settled) : outcome;
}
