// One training, as it goes on.

import { Chart } from "./chart.js";
import { byId, element, put } from "./dom.js";
import { listen } from "./live.js";

const MOST_EVENTS = 500;
const LOOKS = ["line-1", "line-2 dashed", "line-3 dotted", "line-4 dashed dotted"];
const page = byId("training");
const path = `/studio/trainings/${encodeURIComponent(page.dataset.id)}`;
let seen = Number(page.dataset.last);

const answer = await fetch(path);
const known = answer.ok ? await answer.json() : { points: {}, scores: {}, last: seen };

const loss = new Map(known.points.loss);
const validation = new Map(known.points.validation_loss);
const losses = new Chart(byId("losses"), [
  { name: "training", look: "line-1", points: loss },
  { name: "validation", look: "line-2 dashed", points: validation },
], "nats a target token", byId("losses-at"));

// Metrics are drawn by the server as soon as there are any, and gone on with here.
const metrics = new Map();
let scores = null;
let begins = false;
for (const [name, points] of Object.entries(known.scores).slice(0, LOOKS.length)) addMetric(name, points);
if (byId("metrics")) scores = new Chart(byId("metrics"), [...metrics.values()], "share", byId("metrics-at"));

function addMetric(name, points) {
  metrics.set(name, { name: name.replaceAll("_", " "), look: LOOKS[metrics.size], points: new Map(points) });
}

function tell(event) {
  if (event.number <= seen) return;
  seen = event.number;
  if (event.kind === "progress") return;
  const log = byId("events");
  const line = element("li", { "data-kind": event.kind }, element("time", {}, event.time), ` ${event.told}`);
  log.append(line);
  while (log.children.length > MOST_EVENTS) log.firstElementChild.remove();
  const box = log.parentElement;
  if (box.scrollHeight - box.scrollTop - box.clientHeight < 120) box.scrollTop = box.scrollHeight;
}

function stand(now) {
  const state = byId("state");
  state.dataset.state = now.state;
  put(state, now.state.toLowerCase());
  put(byId("phase"), now.phase);
  put(byId("where"), now.where);
  byId("progress").max = now.steps || 1;
  byId("progress").value = now.step;
  document.title = document.title.replace(/^.*?( · )/, () => `${now.name}, ${now.state.toLowerCase()} · `);
  const reasons = byId("reasons");
  if ([...reasons.children].map((one) => one.textContent).join("\n") !== now.reasons.join("\n")) {
    reasons.replaceChildren(...now.reasons.map((text) => element("li", {}, text)));
  }
  for (const one of document.querySelectorAll("[data-does]")) one.hidden = !now.does.includes(one.dataset.does);
}

/** The page as the server has it now takes the place of what is here. */
async function renew() {
  const now = await fetch(location.href);
  if (!now.ok) return;
  const fresh = new DOMParser().parseFromString(await now.text(), "text/html");
  for (const id of ["standing", "verdict", "facts", "downloads", "losses-points", "metrics-points"]) {
    const [old, made] = [byId(id), fresh.getElementById(id)];
    if (old && made) old.replaceWith(document.importNode(made, true));
  }
  if (!scores && fresh.getElementById("metrics")) {
    byId("metrics-figure").replaceWith(document.importNode(fresh.getElementById("metrics-figure"), true));
  }
}

/** With the first validation. */
async function beginMetrics() {
  if (begins) return;
  begins = true;
  const now = await fetch(path);
  if (now.ok) {
    await renew();
    for (const [name, points] of Object.entries((await now.json()).scores).slice(0, LOOKS.length)) addMetric(name, points);
    if (byId("metrics")) scores = new Chart(byId("metrics"), [...metrics.values()], "share", byId("metrics-at"));
  }
  begins = false;
}

byId("events").parentElement.scrollTop = byId("events").scrollHeight;

if (page.dataset.ended === "no") {
  listen((last) => `${path}/events?from=${last || Math.min(known.last, seen)}`, {
    message(event) {
      tell(event);
      if (event.kind === "progress") {
        for (const [step, value] of event.points) loss.set(step, value);
        if (event.progress) {
          byId("progress").max = event.progress.steps;
          byId("progress").value = event.progress.step;
          put(byId("where"), event.progress.where);
        }
        losses.changed();
      }
      if (event.kind === "validation") {
        if ("loss" in event.scores) validation.set(event.step, event.scores.loss);
        losses.changed();
        for (const [name, value] of Object.entries(event.scores)) metrics.get(name)?.points.set(event.step, value);
        if (scores) scores.changed(); else beginMetrics();
      }
    },
    standing: stand,
    end: renew,
  }, String(Math.min(known.last, seen)));
}
