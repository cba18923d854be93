// Runs the modules of an exported page on the frames of a clip.
//
//     node live_person.mjs PAGE CLIP OUT
//
// CLIP.json has {width, height, times}, CLIP.rgba the frames' bytes. OUT.json gets, for each frame, the driver's
// face and the person's points; OUT.rgba the person's frames.

import { readFileSync, writeFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [page, clip, out] = process.argv.slice(2);
const { LivePerson } = await import(pathToFileURL(`${page}/js/live_person.js`));
const readFile = async (name) => new Uint8Array(readFileSync(`${page}/${name}`));
const person = await LivePerson.open(readFile, { backend: "wasm", threads: 1 });

const { width, height, times } = JSON.parse(readFileSync(`${clip}.json`));
const bytes = new Uint8ClampedArray(readFileSync(`${clip}.rgba`));
const results = [];
const frames = [];
for (const [number, t] of times.entries()) {
  const data = bytes.subarray(4 * width * height * number, 4 * width * height * (number + 1));
  const points = await person.findPoints({ data, width, height }, t);
  frames.push(Buffer.from((await person.render(points)).buffer));
  const { isSeen, tracker } = person.retargeter;
  results.push({
    isSeen, isNew: tracker.isNew, points: [...points], driver: isSeen ? [...tracker.lastFace.landmarks, ...tracker.lastFace.irises] : [],
  });
}
writeFileSync(`${out}.json`, JSON.stringify(results));
writeFileSync(`${out}.rgba`, Buffer.concat(frames));
