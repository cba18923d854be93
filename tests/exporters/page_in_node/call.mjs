// Calls a function of a module of an exported page: the arguments are JSON on stdin, the result on stdout.
//
//     node call.mjs PAGE MODULE FUNCTION

import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [page, module, name] = process.argv.slice(2);
const functions = await import(pathToFileURL(`${page}/js/${module}.js`));
const result = functions[name](...JSON.parse(readFileSync(0)));
const plain = (key, value) => (ArrayBuffer.isView(value) ? [...value] : value);
process.stdout.write(JSON.stringify(result, plain));
