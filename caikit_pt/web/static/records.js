// Files of records: chosen or dropped, looked through line by line, and kept by the server for some minutes.

import { element, put } from "./dom.js";
import { refusalOf } from "./live.js";

/** Looks after the records in `box`; `changed` is called when they are others. What it returns can look through
    the file once more: `again` says whether there is one that the server was to have. */
export function records(box, form, changed = () => {}) {
  const name = box.dataset.records;
  const file = form.elements[`${name}_file`];
  const held = form.elements[`${name}_held`];
  const drop = box.querySelector("[data-drop]");
  const brought = box.querySelector("[data-brought]");
  let latest = 0;

  function refused(text, lines) {
    put(box.querySelector(".error"), text);
    box.querySelector("[data-lines]").replaceChildren(...lines.map((line) => element("li", {}, line)));
  }

  async function look() {
    latest += 1;
    const mine = latest;
    held.value = "";
    refused("", []);
    if (!file.files.length) { put(brought, ""); changed(); return; }
    put(brought, `${file.files[0].name} is looked through …`);
    const body = new FormData();
    body.set("which", name);
    for (const field of ["input_field", "output_field"]) body.set(field, form.elements[field]?.value ?? "");
    body.set(`${name}_file`, file.files[0]);
    let answer;
    try {
      answer = await fetch("/studio/records", { method: "POST", body });
    } catch {
      put(brought, "The server is away; choose the file again in a while.");
      return;
    }
    if (mine !== latest) return;
    if (!answer.ok) {
      const error = await refusalOf(answer);
      put(brought, "");
      changed();
      refused(error.message, error.lines ?? []);
      return;
    }
    const found = await answer.json();
    if (name !== "test") held.value = found.held;
    put(brought, [`${found.records === 1 ? "1 record" : `${found.records.toLocaleString("en")} records`} of ${found.name}: all can be used.`, ...found.doubts].join(" "));
    changed();
  }

  file.addEventListener("change", look);
  for (const kind of ["dragover", "dragenter"]) {
    drop.addEventListener(kind, (event) => { event.preventDefault(); drop.classList.add("over"); });
  }
  for (const kind of ["dragleave", "drop"]) drop.addEventListener(kind, () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    if (event.dataTransfer.files.length) { file.files = event.dataTransfer.files; look(); }
  });
  for (const field of ["input_field", "output_field"]) form.elements[field]?.addEventListener("change", look);

  function again() {
    const was = held.value !== "" && file.files.length > 0;
    if (was) look();
    return was;
  }

  return { again };
}
