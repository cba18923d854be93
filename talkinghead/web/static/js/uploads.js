// Places to drop files, and tiles of what was uploaded: with the landmarks and the crop that were found.

import { fileAddress, remove, upload } from "./api.js";
import { announce, byId, element, fail, reconcile, setText } from "./dom.js";
import { store, subscribe } from "./store.js";

const PARALLEL_UPLOADS = 2;

// Join a drop place, its input and its list; `choose` gets (tile, entry) for tiles that can be chosen.
export function uploadPlace(role, { describe, choosable = null }) {
  const drop = byId(`${role}-drop`);
  const input = byId(`${role}-file`);
  const pending = [];
  let active = 0;

  function add(files) {
    fail(`${role}-error`, "");
    for (const file of files) {
      const most = store.limits.upload_bytes;
      if (file.size > most) {
        fail(`${role}-error`, `${file.name}: is larger than ${Math.round(most / 1048576)} MB, the most; choose a smaller file`);
      } else {
        pending.push(file);
      }
    }
    next();
  }

  async function next() {
    if (active >= PARALLEL_UPLOADS || !pending.length) return;
    const file = pending.shift();
    active += 1;
    next();
    try {
      await upload(role, file, file.name ?? "picture.jpg", (share) => {
        setText(drop.querySelector("span"), `Sending ${file.name ?? "the picture"}: ${Math.round(100 * share)}%`);
      });
    } catch (error) {
      fail(`${role}-error`, error);
    }
    active -= 1;
    if (!active && !pending.length) setText(drop.querySelector("span"), describe);
    next();
  }

  drop.addEventListener("dragover", (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    add(event.dataTransfer.files);
  });
  input.addEventListener("change", () => {
    add([...input.files]);
    input.value = "";
  });
  subscribe((state) => reconcile(
    byId(`${role}-list`), state[role], (entry) => createTile(role, entry, choosable),
    (tile, entry) => updateTile(role, tile, entry, choosable),
  ));
  return add;
}

function createTile(role, entry, choosable) {
  const title = choosable
    ? element("label", { className: "name" }, element("input", {
      type: "radio", name: role, value: entry.id, disabled: true, onchange: () => choosable.choose(entry.id),
    }), element("span", {}, entry.name))
    : element("span", { className: "name" }, entry.name);
  return element("li", { className: "tile" },
    element("div", { className: "wait" }, "Looking …"),
    element("div", { className: "text" }, title, element("span", { className: "detail" })),
    element("button", {
      type: "button", className: "remove", "aria-label": `Remove ${entry.name}`, textContent: "×",
      onclick: () => remove(`/api/${role}/${entry.id}`).catch((error) => fail(`${role}-error`, error)),
    }));
}

function updateTile(role, tile, entry, choosable) {
  if (choosable) tile.classList.toggle("chosen", choosable.chosen() === entry.id);
  if (tile.dataset.state === entry.state) return;
  tile.dataset.state = entry.state;
  tile.classList.toggle("failed", entry.state === "failed");
  const detail = tile.querySelector(".detail");
  if (entry.state === "done") {
    tile.querySelector(".wait")?.replaceWith(element("img", {
      src: fileAddress(role, entry, "look"), alt: `${entry.name}, with the landmarks and the crop that were found`,
    }));
    detail.className = entry.note ? "detail note" : "detail";
    setText(detail, entry.note || (entry.seconds ? `${entry.seconds} s` : "face found"));
    const radio = tile.querySelector("input");
    if (radio) {
      radio.disabled = false;
      if (!choosable.chosen()) {
        radio.checked = true;
        choosable.choose(entry.id);
      }
    }
  } else if (entry.state === "failed") {
    setText(tile.querySelector(".wait"), "not used");
    detail.className = "detail reason";
    setText(detail, entry.error.replace(`${entry.name}: `, ""));
    announce(entry.error);
  }
}
