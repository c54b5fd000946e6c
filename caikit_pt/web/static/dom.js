// Elements of plain values: text is only ever text.

/** An element with attributes and children, each an element or a text. */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children.filter((child) => child !== null).map((child) => (child instanceof Node ? child : String(child))));
  return made;
}

/** A table as the server tells it: caption, head, rows; the first of each row is its head. */
export function table({ caption, head, rows }, look = "") {
  const line = (cells) => element("tr", {}, element("th", { scope: "row" }, cells[0]),
    ...cells.slice(1).map((cell) => element("td", look ? { class: look } : {}, cell)));
  return element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    element("table", {}, element("caption", {}, caption),
      element("thead", {}, element("tr", {}, ...head.map((cell) => element("th", { scope: "col" }, cell)))),
      element("tbody", {}, ...rows.map(line))));
}

/** A list of texts. */
export function list(texts, look = "") {
  return element("ul", look ? { class: look } : {}, ...texts.map((text) => element("li", {}, text)));
}

/** Puts a text where it isn't yet: what is read aloud is what has changed. */
export function put(where, text) {
  if (where && where.textContent !== String(text)) where.textContent = text;
}

export const byId = (id) => document.getElementById(id);
