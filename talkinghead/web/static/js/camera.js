// The webcam: opened only after consent; its frames as JPEG.

const SIZE = { width: 640, height: 480 };
const JPEG_QUALITY = 0.8;

export async function openCamera(video) {
  if (!navigator.mediaDevices?.getUserMedia) {
    throw new Error("webcam: browsers give it to pages over https or of this machine only; use https, or open http://127.0.0.1");
  }
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { ...SIZE, frameRate: 30, facingMode: "user" } });
  } catch (error) {
    const reason = { NotAllowedError: "it is not allowed; allow it in the browser", NotFoundError: "there is none; plug one in" };
    throw new Error(`webcam: ${reason[error.name] ?? "it cannot be opened; look whether another program uses it"}`);
  }
  video.srcObject = stream;
  await video.play();
  return stream;
}

export function closeCamera(video) {
  for (const track of video.srcObject?.getTracks() ?? []) track.stop();
  video.srcObject = null;
}

// Return the present frame, at most `width` pixels wide, as a JPEG blob.
export function grab(video, canvas, width) {
  const scale = Math.min(1, width / video.videoWidth);
  canvas.width = Math.round(video.videoWidth * scale);
  canvas.height = Math.round(video.videoHeight * scale);
  canvas.getContext("2d").drawImage(video, 0, 0, canvas.width, canvas.height);
  return new Promise((resolve) => { canvas.toBlob(resolve, "image/jpeg", JPEG_QUALITY); });
}
