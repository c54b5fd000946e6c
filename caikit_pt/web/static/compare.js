// Trainings side by side, those that go on as they do.

import { Chart } from "./chart.js";
import { byId, put } from "./dom.js";
import { listen } from "./live.js";

const cards = [...document.querySelectorAll("[data-training]")];
const path = (card) => `/studio/trainings/${encodeURIComponent(card.dataset.training)}`;
const known = await Promise.all(cards.map(async (card) => {
  const answer = await fetch(path(card));
  return answer.ok ? answer.json() : { points: {}, last: 0 };
}));
const curves = known.map(({ points }) => ({ loss: new Map(points.loss), validation: new Map(points.validation_loss) }));
const chart = new Chart(byId("losses"), curves.flatMap((one, index) => [
  { name: `${index + 1}: training`, look: `line-${index + 1}`, mark: index + 1, points: one.loss },
  { name: `${index + 1}: validation`, look: `line-${index + 1} dashed`, mark: index + 1, points: one.validation },
]), "nats a target token", byId("losses-at"));

cards.forEach((card, index) => {
  if (card.dataset.ended === "yes") return;
  listen((last) => `${path(card)}/events?from=${last || known[index].last}`, {
    message(event) {
      if (event.kind === "progress") for (const [step, value] of event.points) curves[index].loss.set(step, value);
      if (event.kind === "validation" && "loss" in event.scores) curves[index].validation.set(event.step, event.scores.loss);
      chart.changed();
    },
    standing(now) {
      const state = card.querySelector("[data-of=state]");
      state.dataset.state = now.state;
      put(state, now.state.toLowerCase());
      put(card.querySelector("[data-of=where]"), now.where);
    },
  }, String(known[index].last));
});
