// The picture of the person, with a mark in it that says that it is synthesised.

const MARK = "synthesised";
const MARK_HEIGHT = 0.06; // of the picture's side

export class Picture {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.own = document.createElement("canvas"); // of the person's own size
  }

  // Show a square frame of RGBA bytes.
  show(pixels) {
    const size = Math.round(Math.sqrt(pixels.length / 4));
    Object.assign(this.own, { width: size, height: size });
    this.own.getContext("2d").putImageData(new ImageData(pixels, size, size), 0, 0);
    this.context.imageSmoothingQuality = "high";
    this.context.drawImage(this.own, 0, 0, this.canvas.width, this.canvas.height);
    this.mark();
    this.canvas.dataset.frames = Number(this.canvas.dataset.frames ?? 0) + 1;
  }

  mark() {
    const { width, height } = this.canvas;
    const line = Math.round(MARK_HEIGHT * height);
    this.context.font = `${Math.round(0.7 * line)}px system-ui, sans-serif`;
    this.context.textBaseline = "middle";
    const textWidth = this.context.measureText(MARK).width + line;
    this.context.fillStyle = "rgb(0 0 0 / 60%)";
    this.context.fillRect(width - textWidth, height - line, textWidth, line);
    this.context.fillStyle = "#fff";
    this.context.fillText(MARK, width - textWidth + line / 2, height - line / 2);
  }
}
