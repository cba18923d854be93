// Driving by an uploaded video or picture, and the results beside their driver.

import { fileAddress, post, remove } from "./api.js";
import { byId, element, fail, reconcile } from "./dom.js";
import { jobList } from "./jobs.js";
import { chosenPeople, onChoice } from "./people.js";
import { store, subscribe } from "./store.js";
import { uploadPlace } from "./uploads.js";

let driver = "";

export function startDrive() {
  const refresh = () => {
    const ready = store.state?.drivers.some((entry) => entry.id === driver && entry.state === "done");
    byId("animate").disabled = !ready || !chosenPeople().length;
    for (const tile of byId("drivers-list").children) tile.classList.toggle("chosen", tile.dataset.id === driver);
  };
  subscribe((state) => {
    if (!state.drivers.some((entry) => entry.id === driver)) driver = "";
  });
  uploadPlace("drivers", {
    describe: "Its movement is put on the person.",
    choosable: { chosen: () => driver, choose: (id) => { driver = id; refresh(); } },
  });
  onChoice(refresh);
  subscribe(refresh);
  byId("animate").addEventListener("click", async () => {
    fail("animate-error", "");
    try {
      await post("/api/animate", {
        persons: chosenPeople(), driver, retarget: byId("retarget").value,
        layout: byId("layout").checked ? "side-by-side" : "result",
      });
    } catch (error) {
      fail("animate-error", error);
    }
  });
  jobList("animate-jobs", ["animate"]);
  subscribe(showResults);
  startTabs();
}

// One row for each driver: the driver, then everybody who was moved by it.
function showResults(state) {
  const groups = new Map();
  for (const result of state.results) {
    const group = groups.get(result.driver) ?? { id: result.driver, results: [] };
    group.results.push(result);
    groups.set(result.driver, group);
  }
  reconcile(byId("results"), [...groups.values()].reverse(), (group) => createGroup(group, state), updateGroup);
}

function createGroup(group, state) {
  const source = state.drivers.find((entry) => entry.id === group.id);
  const pair = element("div", { className: "pair" });
  if (source) pair.append(driverFigure(source));
  return element("div", { className: "result" },
    element("h3", {}, source ? `Moved by ${source.name}` : "Moved by a driver that was removed"),
    element("button", {
      type: "button", className: "quiet tiny", textContent: "Play all from the start", onclick: () => playAll(pair),
    }), pair);
}

function playAll(pair) {
  for (const video of pair.querySelectorAll("video")) {
    video.currentTime = 0;
    video.play().catch(() => {});
  }
}

function driverFigure(source) {
  const look = element("img", { src: fileAddress("drivers", source, "look"), alt: `${source.name}, with landmarks` });
  let media = look;
  if (source.kind === "video" && [".mp4", ".webm"].includes(source.suffix)) {
    media = element("video", {
      src: fileAddress("drivers", source, "media"), controls: true, muted: true, playsInline: true, "aria-label": "The driver",
    });
    media.addEventListener("error", () => media.replaceWith(look));
  }
  const figure = element("figure", {}, media, element("figcaption", {}, "Driver"));
  figure.dataset.id = "driver";
  return figure;
}

function updateGroup(node, group) {
  const pair = node.querySelector(".pair");
  const driverItem = pair.querySelector('[data-id="driver"]') ? [{ id: "driver" }] : [];
  reconcile(pair, [...driverItem, ...group.results], createResult, () => {});
}

function createResult(result) {
  const address = fileAddress("results", result, "file");
  const media = result.kind === "video"
    ? element("video", { src: address, controls: true, playsInline: true, loop: true, "aria-label": `${result.name}; synthesised` })
    : element("img", { src: address, alt: `${result.name}; synthesised` });
  const notes = [...result.notes, ...(result.without_face ? [`no face in ${result.without_face} frames`] : [])];
  return element("figure", { className: "synthesised" }, media, element("figcaption", {},
    element("span", {}, [result.name, ...notes].join("; ")),
    element("a", { className: "button quiet tiny", href: `${address}?download` }, "Download"),
    element("button", {
      type: "button", className: "quiet danger tiny", textContent: "Delete", "aria-label": `Delete ${result.name}`,
      onclick: () => remove(`/api/results/${result.id}`).catch((error) => fail("animate-error", error)),
    })));
}

function startTabs() {
  const tabs = ["file", "live"].map((name) => byId(`tab-${name}`));
  const select = (tab) => {
    for (const other of tabs) {
      const isChosen = other === tab;
      other.setAttribute("aria-selected", isChosen);
      other.tabIndex = isChosen ? 0 : -1;
      byId(other.getAttribute("aria-controls")).hidden = !isChosen;
    }
    tab.focus();
  };
  for (const [index, tab] of tabs.entries()) {
    tab.addEventListener("click", () => select(tab));
    tab.addEventListener("keydown", (event) => {
      if (["ArrowRight", "ArrowLeft"].includes(event.key)) select(tabs[1 - index]);
    });
  }
}
