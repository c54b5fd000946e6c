// Curves as SVG, in the shapes of studio/curves.py, and what stands at a place of them.

const SPACE = "http://www.w3.org/2000/svg";
const [SMALLEST, LOWEST, HIGHEST] = [260, 180, 380];
const [LEFT, RIGHT, TOP, BOTTOM] = [52, 26, 12, 40];
const MOST_DRAWN = 700;
const MOST_DOTS = 40;

function shape(tag, attributes, text) {
  const made = document.createElementNS(SPACE, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

/** Round numbers from `low` to `high`, some five of them. */
export function ticks(low, high, whole = false, most = 5) {
  const rough = (high - low) / most;
  const size = 10 ** Math.floor(Math.log10(rough));
  let step = [1, 2, 5, 10].map((factor) => factor * size).find((one) => one >= rough * 0.999);
  if (whole) step = Math.max(1, step);
  const found = [];
  for (let at = Math.ceil(low / step - 1e-9); at <= Math.floor(high / step + 1e-9); at += 1) found.push(at * step || 0);
  return found;
}

const short = (value) => String(Number(value.toPrecision(4)));

function thinned(points) {
  if (points.length <= MOST_DRAWN) return points;
  const run = Math.ceil((2 * points.length) / MOST_DRAWN);
  const kept = [];
  for (let at = 0; at < points.length; at += run) {
    const part = points.slice(at, at + run);
    const low = part.reduce((a, b) => (b[1] < a[1] ? b : a));
    const high = part.reduce((a, b) => (b[1] > a[1] ? b : a));
    kept.push(...(low[0] <= high[0] ? [low, high] : [high, low]));
  }
  kept.push(points.at(-1));
  return kept;
}

/** A chart in the element `svg`; `curves` are {name, look, mark, points}, points a Map of update and value. */
export class Chart {
  constructor(svg, curves, unit, readout) {
    this.svg = svg;
    this.curves = curves;
    this.unit = unit;
    this.readout = readout;
    this.waits = false;
    svg.addEventListener("pointermove", (event) => this.#look(event));
    svg.addEventListener("pointerleave", () => this.#leave());
    this.draw();
    new ResizeObserver(() => this.changed()).observe(svg.parentElement);
  }

  /** Draws it once before the next picture, however often it is asked to. */
  changed() {
    if (this.waits) return;
    this.waits = true;
    requestAnimationFrame(() => { this.waits = false; this.draw(); });
  }

  draw() {
    const drawn = this.curves.map((curve) => ({
      ...curve,
      sorted: [...curve.points].filter(([, value]) => Number.isFinite(value)).sort((a, b) => a[0] - b[0]),
    })).filter((curve) => curve.sorted.length);
    this.drawn = drawn;
    if (!drawn.length) return;
    let [low, high, last] = [Infinity, -Infinity, 1];
    for (const { sorted } of drawn) {
      for (const [, value] of sorted) { low = Math.min(low, value); high = Math.max(high, value); }
      last = Math.max(last, sorted.at(-1)[0]);
    }
    if (low >= 0 && low < high / 2) low = 0;
    if (low === high) { low -= 0.5; high += 0.5; }
    this.last = last;
    // As many units as pixels, so that what is written can be read on a telephone, too.
    const WIDTH = Math.max(SMALLEST, Math.round(this.svg.clientWidth));
    const HEIGHT = Math.round(Math.min(HIGHEST, Math.max(LOWEST, WIDTH * 0.36)));
    this.width = WIDTH;
    this.svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
    this.svg.classList.add("fitted");
    const bottom = HEIGHT - BOTTOM;
    const x = (step) => LEFT + ((WIDTH - LEFT - RIGHT) * step) / last;
    const y = (value) => TOP + ((bottom - TOP) * (high - value)) / (high - low);
    const line = (look, x1, y1, x2, y2) => shape("line", { class: look, x1, y1, x2, y2 });
    const text = (atX, atY, anchor, told) => shape("text", { x: atX, y: atY, "text-anchor": anchor }, told);
    const made = [];
    for (const value of ticks(low, high)) {
      made.push(line("grid", LEFT, y(value), WIDTH - RIGHT, y(value)), text(LEFT - 6, y(value) + 4, "end", short(value)));
    }
    for (const step of ticks(0, last, true, WIDTH < 480 ? 3 : 5)) {
      made.push(line("axis", x(step), bottom, x(step), bottom + 5), text(x(step), bottom + 18, "middle", step.toLocaleString("en")));
    }
    made.push(line("axis", LEFT, bottom, WIDTH - RIGHT, bottom));
    made.push(text(WIDTH - RIGHT, HEIGHT - 5, "end", "update"), text(LEFT, HEIGHT - 5, "start", this.unit));
    for (const { look, sorted, mark } of drawn) {
      if (mark) made.push(text(x(sorted.at(-1)[0]) + 5, y(sorted.at(-1)[1]) + 4, "start", mark));
      const points = thinned(sorted);
      made.push(shape("polyline", { class: `curve ${look}`, points: points.map(([step, value]) => `${x(step).toFixed(1)},${y(value).toFixed(1)}`).join(" ") }));
      if (points.length <= MOST_DOTS) {
        for (const [step, value] of points) made.push(shape("circle", { class: `dot ${look}`, cx: x(step).toFixed(1), cy: y(value).toFixed(1), r: 2.5 }));
      }
    }
    this.here = line("here", 0, TOP, 0, bottom);
    this.here.setAttribute("visibility", "hidden");
    const desc = this.svg.querySelector("desc");
    if (desc) desc.textContent = drawn.map(({ name, sorted }) => `${name}: ${sorted.length} points, from ${short(sorted[0][1])} to ${short(sorted.at(-1)[1])}`).join("; ");
    this.svg.replaceChildren(...this.svg.querySelectorAll(":scope > title, :scope > desc"), ...made, this.here);
  }

  #look(event) {
    if (!this.drawn?.length || !this.readout) return;
    const box = this.svg.getBoundingClientRect();
    const inner = this.width - LEFT - RIGHT;
    const at = ((event.clientX - box.left) * this.width) / box.width;
    const step = Math.round(((at - LEFT) / inner) * this.last);
    if (step < 0 || step > this.last) { this.#leave(); return; }
    const place = LEFT + (inner * step) / this.last;
    for (const name of ["x1", "x2"]) this.here.setAttribute(name, place);
    this.here.setAttribute("visibility", "visible");
    const told = this.drawn.map(({ name, sorted }) => {
      const nearest = sorted.reduce((a, b) => (Math.abs(b[0] - step) < Math.abs(a[0] - step) ? b : a));
      return `${name} ${short(nearest[1])}`;
    });
    this.readout.textContent = `update ${step}: ${told.join(", ")}`;
  }

  #leave() {
    this.here?.setAttribute("visibility", "hidden");
    if (this.readout) this.readout.textContent = "";
  }
}
