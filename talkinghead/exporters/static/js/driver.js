// What moves the face: a webcam or a video file, shown in one video element and read frame by frame.

import { closeCamera, openCamera } from "./camera.js";

const MAX_SIDE = 640; // pixels of a frame that is searched for a face
const STALL_MS = 250; // after which a video that shows no new frame is read all the same

export class Driver {
  constructor(video) {
    Object.assign(this, { video, isMirrored: false, isCamera: false });
    this.canvas = document.createElement("canvas");
    this.context = this.canvas.getContext("2d", { willReadFrequently: true });
  }

  async openCamera(isMirrored) {
    this.close();
    await openCamera(this.video);
    Object.assign(this, { isCamera: true });
    this.mirror(isMirrored);
  }

  async openFile(file) {
    this.close();
    this.video.src = URL.createObjectURL(file);
    this.mirror(false);
    try {
      await this.video.play();
    } catch {
      this.close();
      throw new Error(`${file.name}: this browser cannot play it; choose an .mp4 or .webm`);
    }
  }

  mirror(isMirrored) {
    this.isMirrored = isMirrored && this.isCamera;
    this.video.classList.toggle("mirrored", this.isMirrored);
  }

  close() {
    closeCamera(this.video);
    this.video.pause();
    URL.revokeObjectURL(this.video.src);
    this.video.removeAttribute("src");
    this.isCamera = false;
  }

  // Return the next frame as ImageData, at most `MAX_SIDE` pixels long; null before the first one.
  async next() {
    await nextFrame(this.video);
    const { videoWidth: width, videoHeight: height } = this.video;
    if (!width) return null;
    const scale = Math.min(1, MAX_SIDE / Math.max(width, height));
    const [columns, rows] = [Math.round(width * scale), Math.round(height * scale)];
    if (this.canvas.width !== columns || this.canvas.height !== rows) Object.assign(this.canvas, { width: columns, height: rows });
    const sign = this.isMirrored ? -1 : 1;
    this.context.setTransform(sign, 0, 0, 1, this.isMirrored ? columns : 0, 0);
    this.context.drawImage(this.video, 0, 0, columns, rows);
    return this.context.getImageData(0, 0, columns, rows);
  }
}

function nextFrame(video) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, STALL_MS);
    const done = () => { clearTimeout(timer); resolve(); };
    if (video.requestVideoFrameCallback) video.requestVideoFrameCallback(done);
    else requestAnimationFrame(done);
  });
}
