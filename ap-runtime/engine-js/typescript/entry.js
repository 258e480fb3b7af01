// Removes the types of a TypeScript source. Bundled into bundle.js; see README.md.
import { transform } from "sucrase";
import State from "sucrase/dist/esm/parser/tokenizer/state";
import { augmentError } from "sucrase/dist/esm/parser/traverser/base";

// Where its grammar is ambiguous, the parser tries one reading after the other, and tells how the last one failed: of a mistake
// inside an arrow function, that there should be no arrow. The mistake is where the reading failed that came furthest.
let furthest = null;
const { restoreFromSnapshot } = State.prototype;
State.prototype.restoreFromSnapshot = function (snapshot) {
  if (this.error && !(furthest?.pos >= this.error.pos)) furthest = this.error;
  restoreFromSnapshot.call(this, snapshot);
};

export const strip = (source) => {
  furthest = null;
  try {
    return transform(source, { transforms: ["typescript"], disableESTransforms: true, preserveDynamicImport: true }).code;
  } catch (error) {
    throw furthest?.pos > error.pos ? augmentError(furthest) : error;
  }
};
