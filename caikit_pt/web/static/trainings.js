// The list of trainings, as it changes.

import { byId, put } from "./dom.js";
import { listen } from "./live.js";

const body = document.querySelector("#trainings tbody");

function lineOf(id) {
  return [...body.rows].find((row) => row.dataset.id === id);
}

function made(id) {
  const line = byId("line").content.firstElementChild.cloneNode(true);
  line.dataset.id = id;
  line.querySelector("input").value = id;
  line.querySelector("a").href = `/trainings/${encodeURIComponent(id)}`;
  return line;
}

function fill(line, row) {
  for (const cell of line.querySelectorAll("[data-of]")) {
    const name = cell.dataset.of;
    if (name === "state") {
      if (cell.dataset.state && cell.dataset.state !== row.state) put(byId("news"), `${row.name} is ${row.state.toLowerCase()}`);
      cell.dataset.state = row.state;
    }
    put(cell, name === "state" ? row.state.toLowerCase() : row[name]);
  }
  line.querySelector("input").setAttribute("aria-label", `Compare ${row.name}`);
}

listen(() => byId("trainings").dataset.live, {
  trainings({ rows = [], order }) {
    const known = new Map(rows.map((row) => [row.id, row]));
    if (order) {
      const there = new Map([...body.rows].map((row) => [row.dataset.id, row]));
      order.forEach((id, index) => {
        const line = there.get(id) ?? made(id);
        there.delete(id);
        if (body.rows[index] !== line) body.insertBefore(line, body.rows[index] ?? null);
      });
      for (const line of there.values()) line.remove();
      byId("none").hidden = order.length > 0;
    }
    for (const [id, row] of known) {
      const line = lineOf(id);
      if (line) fill(line, row);
    }
  },
});
