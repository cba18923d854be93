// The state of the session, pushed by the server over one WebSocket, which also carries live frames.

import { post } from "./api.js";
import { byId, setText } from "./dom.js";

const RETRY_MS = 1500;
const listeners = new Set();
let socket = null;

export const store = { state: null, models: [], limits: {}, defaultModel: "" };

// Receivers of live driving: onFrame takes an ArrayBuffer, onLive an object, onLost nothing.
export const live = { onFrame: () => {}, onLive: () => {}, onLost: () => {} };

export function subscribe(listener) {
  listeners.add(listener);
  if (store.state) listener(store.state);
}

function update(state) {
  store.state = state;
  for (const listener of listeners) listener(state);
}

export async function open() {
  try {
    const session = await post("/api/session");
    store.models = session.models;
    store.defaultModel = session.default_model;
    store.limits = session.limits;
    update(session.state);
    connect();
  } catch (error) {
    setText(byId("connection"), error.message);
    setTimeout(open, RETRY_MS);
  }
}

function connect() {
  socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/socket`);
  socket.binaryType = "arraybuffer";
  socket.onopen = () => setText(byId("connection"), "");
  socket.onmessage = ({ data }) => {
    if (typeof data !== "string") {
      live.onFrame(data);
      return;
    }
    const message = JSON.parse(data);
    if (message.state) update(message.state);
    if (message.live) live.onLive(message.live);
  };
  socket.onclose = () => {
    socket = null;
    setText(byId("connection"), "The server does not answer; trying again.");
    live.onLost();
    setTimeout(open, RETRY_MS);
  };
}

export function send(data) {
  if (socket?.readyState !== WebSocket.OPEN) return false;
  socket.send(typeof data === "string" || data instanceof ArrayBuffer ? data : JSON.stringify(data));
  return true;
}
