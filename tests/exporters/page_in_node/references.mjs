// Computes the views of a person's references: description and points are JSON on stdin, the views on stdout.
//
//     node references.mjs PAGE REFERENCES

import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [page, references] = process.argv.slice(2);
const { ReferenceViewer } = await import(pathToFileURL(`${page}/js/references.js`));
const { description, points } = JSON.parse(readFileSync(0));
const viewer = new ReferenceViewer(description, new Uint8Array(readFileSync(references)));
const plain = (key, value) => (ArrayBuffer.isView(value) ? [...value] : value);
process.stdout.write(JSON.stringify(viewer.view(Float32Array.from(points)), plain));
