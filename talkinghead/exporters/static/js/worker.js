// Worker that computes, so that the page stays responsive: opens the person, then answers frames one by one.

import { chooseBackend } from "./engine.js";
import { LivePerson } from "./live_person.js";

const FOLDER = new URL("../", import.meta.url);
let person;

self.addEventListener("message", async ({ data: { id, type, ...values } }) => {
  try {
    const answer = await ACTIONS[type](values);
    self.postMessage({ id, ...answer }, answer.pixels ? [answer.pixels.buffer] : []);
  } catch (error) {
    self.postMessage({ id, error: String(error.message ?? error) });
  }
});

const ACTIONS = {
  // Open the person, and render the face at rest.
  async open({ backend, threads }) {
    let chosen = backend ?? await chooseBackend();
    try {
      person = await LivePerson.open(readFile, { backend: chosen, threads });
    } catch (error) {
      if (chosen === "wasm" || backend) throw error;
      chosen = "wasm"; // where a GPU lacks something
      person = await LivePerson.open(readFile, { backend: chosen, threads });
    }
    const { name, size, points } = person.person;
    return { name, size, backend: chosen, pixels: await person.render(Float32Array.from(points)) };
  },

  // Forget the driver, because another one follows.
  start() {
    person.start();
    return {};
  },

  // Return the person's frame for the driver's frame at `t` seconds.
  async frame({ frame, t }) {
    const points = await person.findPoints(frame, t);
    return { pixels: await person.render(points), isSeen: person.retargeter.isSeen };
  },
};

async function readFile(name) {
  const response = await fetch(new URL(name, FOLDER));
  if (!response.ok) throw new Error(`${name}: the host does not have it (${response.status}); export the page again`);
  return new Uint8Array(await response.arrayBuffer());
}
