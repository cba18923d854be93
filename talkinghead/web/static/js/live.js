// Live driving: the newest frame of the camera goes up whenever fewer than two are on their way.

import { closeCamera, grab, openCamera } from "./camera.js";
import { byId, fail, setText } from "./dom.js";
import { chosenPeople, onChoice } from "./people.js";
import { live, send } from "./store.js";

const WIDTH = 320;
const MAX_IN_FLIGHT = 2;
const FRAME_HEADER_BYTES = 5;
const MAX_WAIT_MS = 3000; // for an answer, after which a frame counts as lost
const STATUS_MS = 1000;

const run = { number: 0, sentAt: new Map(), isReady: false, isOn: false, shown: 0, latencies: [], since: 0, person: "" };

export function startLive() {
  const video = byId("live-video");
  const canvas = byId("live-canvas");
  const consent = byId("live-consent");
  const button = byId("live-start");
  const refresh = () => { button.disabled = !run.isOn && (!consent.checked || chosenPeople().length !== 1); };
  consent.addEventListener("change", () => {
    if (consent.checked) send({ prepare_live: true });
    else if (run.isOn) stop(video, refresh);
    refresh();
  });
  onChoice(() => {
    refresh();
    if (run.isOn && chosenPeople().length === 1 && chosenPeople()[0] !== run.person) request();
    if (!run.isOn) setText(byId("live-status"), chosenPeople().length === 1 ? "" : "Choose one person above.");
  });
  button.addEventListener("click", () => (run.isOn ? stop(video, refresh) : start(video, refresh)));
  for (const id of ["mirror", "retarget"]) {
    byId(id).addEventListener("change", () => {
      video.classList.toggle("mirrored", byId("mirror").checked);
      if (run.isOn) request();
    });
  }
  live.onFrame = (data) => show(data, canvas);
  live.onLive = (message) => onMessage(message, video, canvas, refresh);
  live.onLost = () => { if (run.isOn) stop(video, refresh, "The connection was lost."); };
}

async function start(video, refresh) {
  fail("live-error", "");
  byId("live-start").disabled = true;
  try {
    await openCamera(video);
  } catch (error) {
    fail("live-error", error);
    refresh();
    return;
  }
  video.classList.toggle("mirrored", byId("mirror").checked);
  byId("live-pair").hidden = false;
  run.isOn = true;
  setText(byId("live-start"), "Stop");
  refresh();
  request();
  pump(video, document.createElement("canvas"));
}

function request() {
  run.isReady = false;
  run.sentAt.clear();
  [run.person] = chosenPeople();
  setText(byId("live-status"), "starting");
  send({ live: {
    person: run.person, consent: byId("live-consent").checked,
    mirror: byId("mirror").checked, retarget: byId("retarget").value,
  } });
}

function stop(video, refresh, reason = "") {
  run.isOn = false;
  run.isReady = false;
  send({ stop_live: true });
  closeCamera(video);
  byId("live-pair").hidden = true;
  setText(byId("live-start"), "Start the webcam");
  setText(byId("live-status"), reason);
  refresh();
}

function onMessage(message, video, canvas, refresh) {
  if (message.state === "ready") {
    canvas.width = canvas.height = message.size;
    Object.assign(run, { isReady: true, shown: 0, latencies: [], since: performance.now() });
    setText(byId("live-status"), "live");
  } else if (message.state === "failed") {
    stop(video, refresh);
    fail("live-error", message.error);
  } else if (message.state === "stopped" && run.isOn && message.note) {
    stop(video, refresh, message.note);
  }
}

// Send a frame at each frame of the camera that finds room.
async function pump(video, canvas) {
  while (run.isOn) {
    await nextFrame(video);
    const now = performance.now();
    for (const [number, time] of run.sentAt) if (now - time > MAX_WAIT_MS) run.sentAt.delete(number);
    if (!run.isReady || run.sentAt.size >= MAX_IN_FLIGHT || !video.videoWidth) continue;
    const number = (run.number += 1);
    run.sentAt.set(number, now);
    const blob = await grab(video, canvas, WIDTH);
    const jpeg = new Uint8Array(await blob.arrayBuffer());
    const data = new Uint8Array(4 + jpeg.length);
    new DataView(data.buffer).setUint32(0, number);
    data.set(jpeg, 4);
    send(data.buffer);
  }
}

function nextFrame(video) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, 250); // where the camera stalls
    const done = () => { clearTimeout(timer); resolve(); };
    if (video.requestVideoFrameCallback) video.requestVideoFrameCallback(done);
    else requestAnimationFrame(done);
  });
}

async function show(data, canvas) {
  const view = new DataView(data);
  const number = view.getUint32(0);
  const sent = run.sentAt.get(number);
  for (const key of [...run.sentAt.keys()]) if (key <= number) run.sentAt.delete(key);
  if (!run.isOn) return;
  const bitmap = await createImageBitmap(new Blob([data.slice(FRAME_HEADER_BYTES)], { type: "image/jpeg" }));
  canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  run.shown += 1;
  if (sent) run.latencies.push(performance.now() - sent);
  canvas.dataset.frames = Number(canvas.dataset.frames ?? 0) + 1;
  tellSpeed(view.getUint8(4) === 1);
}

function tellSpeed(isSeen) {
  const now = performance.now();
  if (now - run.since < STATUS_MS) return;
  const fps = (1000 * run.shown) / (now - run.since);
  const latency = [...run.latencies].sort((a, b) => a - b)[Math.floor(run.latencies.length / 2)] ?? 0;
  byId("live-canvas").dataset.fps = fps.toFixed(1);
  byId("live-canvas").dataset.latency = latency.toFixed(0);
  // only the words are spoken by screen readers when they change
  setText(byId("live-status"), isSeen ? "live" : "No face is seen: look at the camera, in good light.");
  byId("live-pair").querySelector(".synthesised figcaption").title = `${fps.toFixed(0)} frames a second, ${latency.toFixed(0)} ms late`;
  Object.assign(run, { shown: 0, latencies: [], since: now });
}
