// The three networks in onnxruntime-web: detection and landmarks by WASM, the person by WebGPU where there is a
// GPU, else by WASM too.

const RUNTIMES = { webgpu: "ort.webgpu.min.mjs", wasm: "ort.wasm.min.mjs" };

// Return "webgpu" where this browser has a GPU that is not emulated, else "wasm".
export async function chooseBackend() {
  try {
    const adapter = await navigator.gpu?.requestAdapter();
    return adapter && !(adapter.info?.isFallbackAdapter ?? adapter.isFallbackAdapter) ? "webgpu" : "wasm";
  } catch {
    return "wasm";
  }
}

// Open the networks.
//
// `readFile` returns the bytes of a file of the person's folder, and `network` has the name of the person's network
// by backend. The result has functions of arrays: `detect(pictures, count)`, `locate(pictures, count)` and
// `render(inputs)`, inputs by name.
export async function openEngine(readFile, network, { backend, threads }) {
  const names = ["detection.onnx", "landmarks.onnx", network[backend]];
  const files = names.map(readFile); // while the runtime is loaded
  const ort = await import(`../onnxruntime/${RUNTIMES[backend]}`);
  ort.env.wasm.numThreads = threads;
  ort.env.logLevel = "error";
  const open = async (file, provider) => {
    const session = await ort.InferenceSession.create(await file, { executionProviders: [provider] });
    return (inputs) => runSession(ort, session, inputs);
  };
  // one after the other: the runtime starts with the first
  const [detect, locate, render] = [
    await open(files[0], "wasm"), await open(files[1], "wasm"), await open(files[2], backend),
  ];
  return {
    detect: (pictures, count) => detect({ pictures: [pictures, pictureShape(pictures, count)] }),
    locate: (pictures, count) => locate({ pictures: [pictures, pictureShape(pictures, count)] }),
    render,
  };
}

// Run a session on float32 arrays, by name [array, shape], and return its first output.
async function runSession(ort, session, inputs) {
  const feeds = Object.entries(inputs).map(([name, [data, shape]]) => [name, new ort.Tensor("float32", data, shape)]);
  const outputs = await session.run(Object.fromEntries(feeds));
  return outputs[session.outputNames[0]].data;
}

function pictureShape(pictures, count) {
  const side = Math.round(Math.sqrt(pictures.length / count / 3));
  return [count, 3, side, side];
}
