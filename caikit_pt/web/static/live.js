// What the server tells as it happens, and whether it is there.

import { byId, put } from "./dom.js";

const SECONDS_BETWEEN_TRIES = 3;
const trouble = new Map();

function show(url, text) {
  if (text) trouble.set(url, text); else trouble.delete(url);
  put(byId("connection"), [...new Set(trouble.values())].join("\n"));
}

/**
 * Listens to `url(last)`, where `last` is the id of the last event, until an event `end` comes. `heard` has a
 * function for each kind of event: message, standing, trainings, end.
 */
export function listen(url, heard, last = "") {
  let source = null;
  let again = 0;
  let over = false;
  const name = url("");
  const told = (kind, event) => {
    if (event.lastEventId) last = event.lastEventId;
    heard[kind]?.(JSON.parse(event.data));
  };

  function open() {
    source = new EventSource(url(last));
    source.onopen = () => show(name, "");
    source.onmessage = (event) => told("message", event);
    for (const kind of Object.keys(heard)) {
      if (kind !== "message" && kind !== "end") source.addEventListener(kind, (event) => told(kind, event));
    }
    source.addEventListener("away", (event) => {
      show(name, `The server is away; this page comes back by itself. (${JSON.parse(event.data).text})`);
    });
    source.addEventListener("back", () => show(name, ""));
    source.addEventListener("end", (event) => {
      over = true;
      close();
      const { text } = JSON.parse(event.data);
      show(name, text);
      heard.end?.(text);
    });
    source.onerror = () => {
      show(name, "The connection is lost; this page comes back by itself.");
      if (source.readyState === EventSource.CLOSED) {
        clearTimeout(again);
        again = setTimeout(open, SECONDS_BETWEEN_TRIES * 1000);
      }
    };
  }

  function close() {
    clearTimeout(again);
    source?.close();
  }

  // A page that nobody sees holds no connection: browsers have six for a site.
  function turn() {
    if (over) return;
    close();
    if (document.visibilityState === "visible") open();
  }

  document.addEventListener("visibilitychange", turn);
  addEventListener("pagehide", close);
  addEventListener("pageshow", (event) => { if (event.persisted) turn(); });
  turn();
}

/** The events in the answer to a request that isn't a mere look: pairs of kind and data. */
export async function* eventsOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      let kind = "message";
      let data = "";
      for (const line of part.split("\n")) {
        if (line.startsWith("event: ")) kind = line.slice(7);
        else if (line.startsWith("data: ")) data += line.slice(6);
      }
      if (data) yield [kind, JSON.parse(data)];
    }
  }
}

/** What an answer says that isn't what was asked for. */
export async function refusalOf(response) {
  try {
    return (await response.json()).error;
  } catch {
    return { message: `${response.status} ${response.statusText}`, lines: [] };
  }
}
