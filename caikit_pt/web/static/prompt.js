// A text on a prompt and on its base next to each other, and a test with records.

import { byId, element, list, put, table } from "./dom.js";
import { eventsOf, refusalOf } from "./live.js";
import { records } from "./records.js";

const ask = byId("try-form");
const test = byId("test-form");
const AWAY = "The server is away; try again in a while.";
let asked = null;

ask.addEventListener("submit", async (event) => {
  event.preventDefault();
  asked?.abort();
  asked = new AbortController();
  const mine = asked;
  put(byId("e-text"), "");
  for (const role of ["tuned", "untuned"]) {
    byId(role).textContent = "";
    byId(role).setAttribute("aria-busy", "true");
    put(byId(`${role}-end`), "");
  }
  byId("answers").hidden = false;
  byId("stop").hidden = false;
  try {
    const answer = await fetch(ask.dataset.streams, { method: "POST", body: new FormData(ask), signal: mine.signal });
    if (!answer.ok) { put(byId("e-text"), (await refusalOf(answer)).message); byId("answers").hidden = true; return; }
    for await (const [kind, told] of eventsOf(answer)) {
      if (kind === "tuned" || kind === "untuned") {
        byId(kind).append(told.text);
        if (told.reason && told.reason !== "NOT_FINISHED") put(byId(`${kind}-end`), `${told.tokens} tokens, ${told.reason.toLowerCase().replaceAll("_", " ")}`);
      }
      if (kind === "refused") put(byId(`${told.role}-end`), told.error.message);
      if (kind === "done" || kind === "refused") byId(told.role).setAttribute("aria-busy", "false");
      if (kind === "message" && told.error) put(byId("e-text"), told.error.message);
    }
  } catch (error) {
    if (error.name !== "AbortError") put(byId("e-text"), AWAY);
  } finally {
    if (mine === asked) byId("stop").hidden = true;
  }
});
byId("stop").addEventListener("click", () => asked?.abort());

for (const box of test.querySelectorAll("[data-records]")) records(box, test);

test.addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = test.querySelector("button");
  const progress = byId("test-progress");
  const wrong = [];
  const refuse = (text, lines = []) => {
    put(byId("e-test"), text);
    test.querySelector("[data-lines]").replaceChildren(...lines.map((line) => element("li", {}, line)));
  };
  refuse("");
  button.disabled = true;
  progress.hidden = false;
  progress.removeAttribute("value");
  byId("report").replaceChildren();
  try {
    const answer = await fetch(test.dataset.streams, { method: "POST", body: new FormData(test) });
    if (!answer.ok) { refuse((await refusalOf(answer)).message); return; }
    for await (const [kind, told] of eventsOf(answer)) {
      if (kind === "progress" && told.of) { progress.max = told.of; progress.value = told.done; }
      if (kind === "wrong") wrong.push([told.record, told.input, told.expected, told.answered]);
      if (kind === "message" && told.error) refuse(told.error.message, told.error.lines ?? []);
      if (kind === "report") {
        const samples = { caption: "Samples of wrong answers", head: ["record", "input", "expected", "answered"], rows: wrong };
        byId("report").replaceChildren(...told.tables.map((one) => table(one)), ...(told.notes.length ? [list(told.notes)] : []),
          ...(wrong.length ? [table(samples, "text")] : []));
      }
    }
  } catch {
    refuse(AWAY);
  } finally {
    button.disabled = false;
    progress.hidden = true;
  }
});
