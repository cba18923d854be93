// The worker as functions that return promises.

export class WorkerClient {
  constructor() {
    this.pending = new Map();
    this.number = 0;
    this.worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
    this.worker.addEventListener("message", ({ data: { id, error, ...answer } }) => {
      const { resolve, reject } = this.pending.get(id);
      this.pending.delete(id);
      if (error) reject(new Error(error));
      else resolve(answer);
    });
    this.worker.addEventListener("error", () => this.fail("person: the computation ended; load the page again"));
  }

  open(options) {
    return this.ask({ type: "open", ...options });
  }

  start() {
    return this.ask({ type: "start" });
  }

  // `frame` is ImageData; its bytes move to the worker.
  frame(frame, t) {
    const { data, width, height } = frame;
    return this.ask({ type: "frame", frame: { data, width, height }, t }, [data.buffer]);
  }

  ask(message, transfer = []) {
    return new Promise((resolve, reject) => {
      this.number += 1;
      this.pending.set(this.number, { resolve, reject });
      this.worker.postMessage({ id: this.number, ...message }, transfer);
    });
  }

  fail(text) {
    for (const { reject } of this.pending.values()) reject(new Error(text));
    this.pending.clear();
  }
}
