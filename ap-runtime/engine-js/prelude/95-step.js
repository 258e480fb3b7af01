// The function of a step.

const commonModule = { exports: {}, id: ".", filename: "/step.js", loaded: false, children: [], paths: [], require };

// `[function, context]`, or `undefined` if the step exports none. What most steps have comes first: whatever is looked at
// beyond it costs them a page of memory.
function pick(namespace, context) {
  let found = namespace.code;
  if (typeof found !== "function") found = pickOther(namespace);
  if (found === undefined) return undefined;
  context.store = store;
  return [found, context];
}

// The default export, or what the step left in `module.exports`.
function pickOther(namespace) {
  const common = commonModule.exports;
  const candidates = [namespace.default, namespace.default?.code, common?.code, common?.default, common];
  for (let i = 0; i < candidates.length; i++) if (typeof candidates[i] === "function") return candidates[i];
  return undefined;
}
