// Jobs that wait, run or have failed.

import { fileAddress, post } from "./api.js";
import { announce, byId, element, reconcile, setText } from "./dom.js";
import { subscribe } from "./store.js";

const dismissed = new Set();

// Show the jobs of some kinds in a place.
export function jobList(place, kinds) {
  subscribe((state) => {
    const jobs = state.jobs.filter((job) => kinds.includes(job.job)
      && (["waiting", "running", "failed"].includes(job.state)) && !dismissed.has(job.id));
    reconcile(byId(place), jobs, createJob, updateJob);
  });
}

function createJob(job) {
  const button = element("button", { type: "button", className: "quiet tiny" });
  button.addEventListener("click", () => {
    const node = button.closest(".job");
    if (node.dataset.state === "failed") {
      dismissed.add(job.id);
      node.remove();
      return;
    }
    button.disabled = true;
    post(`/api/jobs/${job.id}/stop`).catch((error) => {
      button.disabled = false;
      setText(node.querySelector(".reason"), error.message);
    });
  });
  return element("div", { className: "job" }, element("div", {},
    element("strong", {}, job.name), element("p", { className: "hint what" }),
    element("progress", { "aria-label": `Progress of ${job.name}`, max: 1 }),
    element("p", { className: "note" }), element("p", { className: "reason", role: "alert" }),
    element("div", { className: "row" }, button)));
}

function describe(job) {
  if (job.stopping) return "stopping";
  if (job.state === "waiting") {
    return job.position ? `waiting, ${job.position} before it` : "waiting";
  }
  const progress = job.progress;
  if (!progress) return "starting";
  return progress.total ? `${progress.text}: ${progress.done} of ${progress.total}` : progress.text;
}

function updateJob(node, job) {
  const isOver = job.state === "failed";
  node.dataset.state = job.state;
  setText(node.querySelector(".what"), isOver ? "" : describe(job));
  const bar = node.querySelector("progress");
  bar.hidden = isOver;
  if (job.progress?.total) bar.value = job.progress.done / job.progress.total;
  else bar.removeAttribute("value");
  setText(node.querySelector(".note"), (job.notes ?? []).join("; "));
  if (isOver && !node.querySelector(".reason").textContent) announce(`${job.name}: ${job.error}`);
  setText(node.querySelector(".reason"), isOver ? job.error : "");
  const learns = job.job === "learn" && job.state === "running";
  setText(node.querySelector("button"), isOver ? "Dismiss" : learns ? "Stop and keep the person so far" : "Stop");
  node.querySelector("button").disabled = Boolean(job.stopping);
  showPreview(node, job);
}

function showPreview(node, job) {
  if (!job.preview || job.state !== "running") return;
  let picture = node.querySelector("img");
  if (!picture) {
    picture = element("img", { alt: "The person so far" });
    node.prepend(picture);
    node.classList.add("with-preview");
  }
  const address = fileAddress("jobs", job, "preview", `?${job.preview}`);
  if (picture.getAttribute("src") !== address) picture.src = address;
}
