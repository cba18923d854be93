// A person who follows a driver frame by frame, from past frames alone.

import { openEngine } from "./engine.js";
import { FaceFinder } from "./face_finder.js";
import { landmarkImage } from "./landmark_image.js";
import { NetworkDetector } from "./network_detector.js";
import { OnlineRetargeter } from "./online.js";
import { ReferenceViewer } from "./references.js";

export class LivePerson {
  // Open a person of a folder; `readFile` and the options are as for `openEngine`.
  static async open(readFile, options) {
    const person = JSON.parse(new TextDecoder().decode(await readFile("person.json")));
    const { references } = person;
    const viewer = references && new ReferenceViewer(references, await readFile("references.bin"));
    return new LivePerson(person, await openEngine(readFile, person.network, options), viewer);
  }

  // `viewer` is undefined where the person has no references.
  constructor(person, engine, viewer) {
    Object.assign(this, { person, engine, viewer });
    this.detector = new NetworkDetector(new FaceFinder(engine.detect), engine.locate);
    this.start();
  }

  // Forget the driver, because another one follows.
  start() {
    const { neutral, points } = this.person;
    this.retargeter = new OnlineRetargeter(this.detector, neutral, Float32Array.from(points));
  }

  // Return the person's points float32 [156] for the driver's frame {data, width, height} at `t` seconds.
  findPoints(frame, t) {
    return this.retargeter.next(frame, t);
  }

  // Return the person's frame of RGBA bytes for points in fractions of the crop.
  async render(points) {
    const { layer_size: layerSize, num_points: numPoints } = this.person;
    const image = landmarkImage(points.subarray(0, 2 * numPoints), layerSize);
    const inputs = { image: [image, [1, 3, layerSize, layerSize]], ...this.viewer?.view(points) };
    return toRgba(await this.engine.render(inputs));
  }
}

// Return float32 [3, size, size] in [-1, 1] as RGBA bytes.
function toRgba(planes) {
  const count = planes.length / 3;
  const bytes = new Uint8ClampedArray(4 * count);
  for (let i = 0; i < count; i += 1) {
    for (let channel = 0; channel < 3; channel += 1) bytes[4 * i + channel] = 127.5 * planes[channel * count + i] + 127.5;
    bytes[4 * i + 3] = 255;
  }
  return bytes;
}
