// The page: joins the driver, the worker and the picture.

import { byId, counted, fail, setText } from "./dom.js";
import { Driver } from "./driver.js";
import { isolate } from "./isolation.js";
import { Picture } from "./picture.js";
import { WorkerClient } from "./worker_client.js";

const MAX_THREADS = 4;
const STATUS_MS = 1000;
const NO_FACE = "No face is seen: one that looks at the camera, in good light, is.";

// A test or a slow machine can choose: ?backend=wasm or webgpu, ?threads=1.
const settings = new URLSearchParams(location.search);
const driver = new Driver(byId("video"));
const picture = new Picture(byId("person"));
let worker;
let run = 0; // number of the run that is on, 0 for none
let lastRun = 0;

await isolate();
worker = new WorkerClient();
await open();

async function open() {
  const cores = crossOriginIsolated ? navigator.hardwareConcurrency ?? 1 : 1;
  const threads = Number(settings.get("threads")) || Math.min(cores, MAX_THREADS);
  try {
    const person = await worker.open({ backend: settings.get("backend"), threads });
    setText(byId("title"), `Move ${person.name}'s face`);
    document.title = `${person.name}, talkinghead`;
    byId("person").ariaLabel = `${person.name}, synthesised`;
    picture.show(person.pixels);
    const by = person.backend === "webgpu" ? "WebGPU" : `WASM with ${counted(threads, "thread")}`;
    setText(byId("status"), `Ready, by ${by}.`);
    document.documentElement.dataset.backend = person.backend;
    byId("video-file").disabled = false;
    refresh();
  } catch (error) {
    setText(byId("status"), "");
    fail("error", error);
  }
}

function refresh() {
  byId("camera").disabled = byId("video-file").disabled || !byId("consent").checked;
  byId("stop").disabled = !run;
}

byId("consent").addEventListener("change", () => {
  if (!byId("consent").checked && driver.isCamera) stop();
  refresh();
});
byId("mirror").addEventListener("change", () => driver.mirror(byId("mirror").checked));
byId("camera").addEventListener("click", () => start(() => driver.openCamera(byId("mirror").checked), "You"));
byId("video-file").addEventListener("change", ({ target }) => {
  const [file] = target.files;
  target.value = ""; // so that the same file can be chosen again
  if (file) start(() => driver.openFile(file), file.name);
});
byId("stop").addEventListener("click", () => stop());

async function start(openDriver, caption) {
  stop();
  fail("error", "");
  try {
    await openDriver();
    await worker.start();
  } catch (error) {
    stop();
    fail("error", error);
    return;
  }
  setText(byId("driver").querySelector("figcaption"), caption);
  byId("driver").hidden = false;
  lastRun += 1;
  run = lastRun;
  refresh();
  follow(run);
}

function stop() {
  run = 0;
  driver.close();
  byId("driver").hidden = true;
  setText(byId("speed"), "");
  setText(byId("status"), "");
  refresh();
}

// Render the newest frame of the driver, as long as a run is on.
async function follow(number) {
  let [shown, since] = [0, performance.now()];
  try {
    while (run === number) {
      const frame = await driver.next();
      if (run !== number || !frame) continue;
      const { pixels, isSeen } = await worker.frame(frame, performance.now() / 1000);
      if (run !== number) return;
      picture.show(pixels);
      shown += 1;
      const elapsed = performance.now() - since;
      if (elapsed < STATUS_MS) continue;
      setText(byId("speed"), `${((1000 * shown) / elapsed).toFixed(1)} frames a second`);
      setText(byId("status"), isSeen ? "live" : NO_FACE);
      [shown, since] = [0, performance.now()];
    }
  } catch (error) {
    stop();
    fail("error", error);
  }
}
