// The form for a training: what it would do is told while it is filled in.

import { byId, list, put, table } from "./dom.js";
import { refusalOf } from "./live.js";
import { records } from "./records.js";

const SECONDS_STILL = 0.6;
const form = byId("new-form");
const told = byId("check-state");
const looks = new Map();
let waits = 0;
let asked = null;

function mark(field, text) {
  for (const box of form.querySelectorAll("[data-field]")) {
    const is = box.dataset.field === field;
    box.classList.toggle("wrong", is);
    put(byId(`e-${box.dataset.field}`), is ? text : "");
    const input = box.querySelector("input:not([type=checkbox]), select, textarea");
    if (is) input?.setAttribute("aria-invalid", "true"); else input?.removeAttribute("aria-invalid");
  }
}

function hasRecords() {
  const of = (name) => form.elements[name].value.trim();
  return of("train_held") || of("train_text") || of("train_lies");
}

async function check() {
  asked?.abort();
  // What was wrong with a file stands beside it until there is another.
  if (!hasRecords()) { put(told, "Told here as soon as there are records."); byId("check").replaceChildren(); return; }
  mark("", "");
  asked = new AbortController();
  const body = new FormData(form);
  // They are held by the server already.
  for (const name of ["train_file", "validate_file"]) body.delete(name);
  put(told, "Checking …");
  let answer;
  try {
    answer = await fetch("/studio/check", { method: "POST", body, signal: asked.signal });
  } catch (error) {
    if (error.name !== "AbortError") put(told, "The server is away; it is asked again with the next change.");
    return;
  }
  if (!answer.ok) {
    const error = await refusalOf(answer);
    // The server keeps files for minutes; who has left the form open has them yet.
    if (looks.get(error.field)?.again()) return;
    mark(error.field, error.message);
    for (const name of ["train", "validate"]) {
      if (error.field === name) put(byId(`e-${name}`), error.message);
    }
    put(told, error.message);
    byId("check").replaceChildren();
    return;
  }
  const { warnings, tables } = await answer.json();
  for (const name of ["train", "validate"]) put(byId(`e-${name}`), "");
  put(told, "As the form stands.");
  byId("check").replaceChildren(...(warnings.length ? [list(warnings, "warnings")] : []), ...tables.filter(({ rows }) => rows.length).map((one) => table(one)));
}

function soon() {
  clearTimeout(waits);
  waits = setTimeout(check, SECONDS_STILL * 1000);
}

for (const box of form.querySelectorAll("[data-records]")) looks.set(box.dataset.records, records(box, form, soon));
for (const kind of ["input", "change"]) form.addEventListener(kind, (event) => { if (event.target.type !== "file") soon(); });
form.addEventListener("submit", (event) => {
  for (const name of ["train", "validate"]) {
    // What is held isn't sent again.
    if (form.elements[`${name}_held`].value) form.elements[`${name}_file`].disabled = true;
  }
  event.submitter?.setAttribute("aria-busy", "true");
});
addEventListener("pageshow", () => {
  for (const name of ["train", "validate"]) form.elements[`${name}_file`].disabled = false;
});
if (hasRecords()) soon();
