// Pictures to learn from, taken with the webcam.

import { closeCamera, grab, openCamera } from "./camera.js";
import { announce, byId, fail } from "./dom.js";

const WIDTH = 1280;

export function startShots(addPictures) {
  const video = byId("shots-video");
  const consent = byId("shots-consent");
  const canvas = document.createElement("canvas");
  let count = 0;

  function close() {
    closeCamera(video);
    video.hidden = true;
    consent.checked = false;
    byId("shots-take").disabled = true;
    byId("shots").hidden = true;
    byId("pictures-camera").focus();
  }

  byId("pictures-camera").addEventListener("click", () => {
    byId("shots").hidden = false;
    consent.focus();
  });
  consent.addEventListener("change", async () => {
    fail("pictures-error", "");
    if (!consent.checked) {
      closeCamera(video);
      video.hidden = true;
      byId("shots-take").disabled = true;
      return;
    }
    try {
      video.hidden = false;
      await openCamera(video);
      byId("shots-take").disabled = false;
    } catch (error) {
      video.hidden = true;
      consent.checked = false;
      fail("pictures-error", error);
    }
  });
  byId("shots-take").addEventListener("click", async () => {
    const blob = await grab(video, canvas, WIDTH);
    count += 1;
    addPictures([new File([blob], `webcam ${count}.jpg`, { type: "image/jpeg" })]);
    announce(`picture ${count} was taken`);
  });
  byId("shots-close").addEventListener("click", close);
}
