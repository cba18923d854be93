// The people that were learned: chosen to be moved, downloaded, exported, deleted.

import { fileAddress, post, remove } from "./api.js";
import { announce, byId, counted, element, fail, megabytes, reconcile, setText } from "./dom.js";
import { jobList } from "./jobs.js";
import { subscribe } from "./store.js";

const chosen = new Set();
const known = new Set();
const listeners = new Set();

export const chosenPeople = () => [...chosen];

export const onChoice = (listener) => listeners.add(listener);

function tell() {
  for (const listener of listeners) listener();
}

export function startPeople() {
  let first = true;
  subscribe((state) => {
    byId("people").hidden = !state.persons.length;
    byId("move").hidden = !state.persons.length;
    let fresh = false;
    const ids = new Set(state.persons.map((person) => person.id));
    for (const id of chosen) if (!ids.has(id)) chosen.delete(id);
    for (const person of state.persons) {
      if (known.has(person.id)) continue;
      known.add(person.id);
      if (first) continue;
      // a new person is the one to be moved next
      chosen.clear();
      chosen.add(person.id);
      fresh = true;
      announce(`${person.name} is ready`);
    }
    if (first && state.persons.length) chosen.add(state.persons.at(-1).id);
    reconcile(byId("people-list"), [...state.persons].reverse(), createPerson, (node, person) => updatePerson(node, person, state));
    if (fresh) byId("people").scrollIntoView({ block: "nearest" }); // browsers play what is in view
    first = false;
    tell();
  });
  jobList("export-jobs", ["export"]);
}

function createPerson(person) {
  const pick = element("input", { type: "checkbox", className: "pick" });
  pick.addEventListener("change", () => {
    if (pick.checked) chosen.add(person.id);
    else chosen.delete(person.id);
    tell();
  });
  const sample = element("video", {
    src: fileAddress("persons", person, "sample"), poster: fileAddress("persons", person, "still"),
    loop: true, muted: true, playsInline: true, "aria-label": `${person.name}, moving; synthesised`,
  });
  if (!matchMedia("(prefers-reduced-motion: reduce)").matches) sample.autoplay = true;
  else sample.controls = true;
  const steps = person.steps ? counted(person.steps, "step") : "at once";
  return element("li", { className: "person" }, sample, element("div", { className: "text" },
    element("label", {}, pick, element("span", {}, person.name)),
    element("p", { className: "hint" }, `${person.model}, ${person.size} px, ${counted(person.pictures, "picture")}, ${steps}`),
    element("p", { className: "hint note" }),
    element("details", {}, element("summary", {}, "Download, export, delete"), element("div", { className: "row" },
      element("a", { className: "button quiet tiny", href: fileAddress("persons", person, "file", "?download") },
        `Person (${megabytes(person.bytes)})`),
      exportButton(person, "onnx", "Make ONNX engine"), exportButton(person, "aoti", "Make .pt2 engine"),
      element("button", {
        type: "button", className: "quiet danger tiny", textContent: "Delete",
        "aria-label": `Delete ${person.name}`, onclick: () => deletePerson(person),
      })), element("div", { className: "row engines" }))));
}

function exportButton(person, format, label) {
  return element("button", {
    type: "button", className: "quiet tiny", textContent: label, "data-format": format,
    onclick: () => post("/api/export", { person: person.id, format }).catch((error) => fail("people-error", error)),
  });
}

function deletePerson(person) {
  if (!confirm(`Delete ${person.name} and the videos of them?`)) return;
  fail("people-error", "");
  remove(`/api/persons/${person.id}`).catch((error) => fail("people-error", error));
}

function updatePerson(node, person, state) {
  node.querySelector(".pick").checked = chosen.has(person.id);
  const notes = [...(person.ended_early ? ["stopped early"] : []), ...person.notes];
  setText(node.querySelector(".note"), notes.join("; "));
  const engines = state.engines.filter((engine) => engine.person === person.id);
  for (const button of node.querySelectorAll("[data-format]")) {
    button.hidden = engines.some((engine) => engine.format === button.dataset.format);
    button.disabled = state.jobs.some((job) => job.job === "export" && job.person === person.id
      && job.format === button.dataset.format && ["waiting", "running"].includes(job.state));
  }
  reconcile(node.querySelector(".engines"), engines, (engine) => element("a", {
    className: "button quiet tiny", href: fileAddress("engines", engine, "file", "?download"),
  }, `${engine.format === "onnx" ? "ONNX" : ".pt2"} engine (${megabytes(engine.bytes)})`), () => {});
}
