// Prints how many bytes files have together when Brotli has compressed each.
//
//     node brotli.mjs FILE...

import { readFileSync } from "node:fs";
import { brotliCompressSync, constants } from "node:zlib";

const QUALITY = 5; // of hosts that compress as they send
const sizes = process.argv.slice(2).map(
  (file) => brotliCompressSync(readFileSync(file), { params: { [constants.BROTLI_PARAM_QUALITY]: QUALITY } }).length,
);
process.stdout.write(String(sizes.reduce((sum, size) => sum + size, 0)));
