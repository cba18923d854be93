// Runs the modules of an exported page on the frames of a clip, in node.
//
//     node live_person.mjs PAGE FRAMES WIDTH HEIGHT FPS OUT
//
// FRAMES holds RGBA bytes. OUT.json gets, for each frame, the driver's points and the person's; OUT.rgba the
// person's frames.

import { readFileSync, writeFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [page, framesPath, width, height, fps, out] = process.argv.slice(2);
const { LivePerson } = await import(pathToFileURL(`${page}/js/live_person.js`));
const readFile = async (name) => new Uint8Array(readFileSync(`${page}/${name}`));
const person = await LivePerson.open(readFile, { backend: "wasm", threads: 1 });

const bytes = new Uint8ClampedArray(readFileSync(framesPath));
const frameBytes = 4 * width * height;
const results = [];
const frames = [];
for (let start = 0; start < bytes.length; start += frameBytes) {
  const frame = { data: bytes.subarray(start, start + frameBytes), width: Number(width), height: Number(height) };
  const points = await person.findPoints(frame, results.length / fps);
  const face = person.retargeter.tracker.lastFace;
  frames.push(Buffer.from((await person.render(points)).buffer));
  results.push({
    driver: face && [...face.landmarks, ...face.irises], confidence: face && face.confidence,
    isSeen: person.retargeter.isSeen, points: [...points],
  });
}
writeFileSync(`${out}.json`, JSON.stringify(results));
writeFileSync(`${out}.rgba`, Buffer.concat(frames));
