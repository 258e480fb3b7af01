// Removes the types of a TypeScript source. Bundled into typescript.js; see README.md.
import { transform } from "sucrase";

export const strip = (source) =>
  transform(source, { transforms: ["typescript"], disableESTransforms: true, preserveDynamicImport: true }).code;
