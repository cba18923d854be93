// Learning of a person: how long, by which model, under which name.

import { post } from "./api.js";
import { byId, counted, element, fail, setText } from "./dom.js";
import { jobList } from "./jobs.js";
import { store, subscribe } from "./store.js";

const QUALITIES = [["at-once", "At once", 0], ["quick", "Quick", 0.5], ["standard", "Standard", 1], ["thorough", "Thorough", 2]];
const MODELS = { portrait: "Portrait, sharp", small: "Small, softer", tiny: "Tiny, softest" };

export function startLearn() {
  const form = byId("learn-form");
  let ready = false;
  subscribe((state) => {
    if (!ready) buildChoices();
    ready = true;
    const usable = state.pictures.filter((picture) => picture.state === "done").length;
    const looking = state.pictures.some((picture) => !["done", "failed"].includes(picture.state));
    byId("learn-start").disabled = !usable || looking;
    let hint = usable ? `from ${counted(usable, "file")}` : "Add a picture first.";
    if (looking) hint = "Looking at the pictures …";
    setText(byId("learn-hint"), hint);
    byId("name").placeholder = `Person ${state.named + 1}`;
  });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    fail("learn-error", "");
    try {
      await post("/api/learn", {
        quality: new FormData(form).get("quality"), model: byId("model").value, name: byId("name").value,
      });
      byId("name").value = "";
    } catch (error) {
      fail("learn-error", error);
    }
  });
  byId("model").addEventListener("change", showSteps);
  jobList("learn-jobs", ["learn"]);
}

function buildChoices() {
  byId("model").replaceChildren(...store.models.map((model) => element("option", {
    value: model.name, selected: model.name === store.defaultModel,
    textContent: `${MODELS[model.name] ?? model.name} (${model.size} px)`,
  })));
  byId("qualities").replaceChildren(...QUALITIES.map(([value, label]) => element("label", {},
    element("input", { type: "radio", name: "quality", value, checked: value === "at-once" }),
    element("span", {}, label, element("small", { id: `steps-${value}` })))));
  showSteps();
}

function showSteps() {
  const model = store.models.find((one) => one.name === byId("model").value);
  for (const [value, , factor] of QUALITIES) {
    setText(byId(`steps-${value}`), factor ? counted(Math.round(model.steps * factor), "step") : "no learning");
  }
}
