"use strict";
// Draws the lanes of a simulated run for the part of time that is shown. All times are milliseconds.
const data = JSON.parse(document.getElementById("data").textContent);
// Some room behind the end, so that what begins there can be seen.
const END = Math.max(data.end_ms, 1) * 1.03, LABEL = 96, ROW = 18, GAP = 3, AXIS = 18, LEAST = 20;
const SVG = document.getElementById("svg").namespaceURI;
let shown = { from: 0, to: END };
const detail = document.getElementById("detail");

function element(name, attributes, parent) {
  const made = document.createElementNS(SVG, name);
  for (const key in attributes) made.setAttribute(key, attributes[key]);
  if (parent) parent.appendChild(made);
  return made;
}

// A lane keeps its SVG; only what is in it is drawn anew.
const lanes = data.lanes.map((lane) => {
  const section = document.createElement("section");
  section.className = "lane";
  const title = document.createElement("h2");
  title.textContent = lane.name;
  const about = document.createElement("span");
  about.textContent = lane.rows.length ? lane.about : "none in this run";
  title.appendChild(about);
  section.appendChild(title);
  const svg = element("svg", { role: "img", "aria-label": lane.name + ": " + lane.about }, section);
  document.getElementById("lanes").appendChild(section);
  return { lane, svg };
});

function step(span) {
  for (const size of [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 3e4, 6e4, 12e4, 3e5, 6e5])
    if (span / size <= 12) return size;
  return 18e5;
}

function draw() {
  const span = shown.to - shown.from;
  for (const { lane, svg } of lanes) {
    const width = Math.max(svg.clientWidth, 300), inner = width - LABEL - 8;
    const height = lane.rows.length * (ROW + GAP) + AXIS;
    const x = (ms) => LABEL + ((ms - shown.from) / span) * inner;
    svg.replaceChildren();
    svg.setAttribute("height", height);
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const said = [data.healed_ms, data.violation && data.violation.at_ms].filter((at) => at != null);
    axis(svg, x, height, said);
    const inside = element("g", {}, svg);
    lane.rows.forEach((row, at) => drawRow(inside, row, at * (ROW + GAP), x, width));
    const crowded = data.violation && data.healed_ms != null && x(data.violation.at_ms) - x(data.healed_ms) < 110;
    line(svg, x, data.healed_ms, "healed", crowded ? "" : "healed", height, "faults and new work are over");
    if (data.violation) line(svg, x, data.violation.at_ms, "violation", "violation", height, data.violation.detail);
  }
  const seconds = (ms) => (ms / 1000).toFixed(span < 3000 ? 3 : 1);
  document.getElementById("range").textContent = `${seconds(shown.from)} to ${seconds(shown.to)} s`;
}

// Times that stand under a marked line give way to its words.
function axis(svg, x, height, said) {
  const size = step(shown.to - shown.from);
  const digits = size >= 1000 ? 0 : size >= 100 ? 1 : size >= 10 ? 2 : 3;
  for (let at = Math.ceil(shown.from / size) * size; at <= shown.to; at += size) {
    element("line", { class: "tick", x1: x(at), x2: x(at), y1: 0, y2: height - AXIS + 4 }, svg);
    if (said.some((other) => x(at) > x(other) - 78 && x(at) < x(other) + 20)) continue;
    const text = element("text", { class: "label", x: x(at), y: height - 3, "text-anchor": "middle" }, svg);
    text.textContent = (at / 1000).toFixed(digits) + " s";
  }
}

function drawRow(group, row, y, x, width) {
  element("rect", { class: "band", x: LABEL, y, width: width - LABEL - 8, height: ROW }, group);
  const label = element("text", { class: "label", x: 0, y: y + ROW - 5 }, group);
  label.textContent = row.label;
  for (const bar of row.bars) {
    if (bar.to_ms < shown.from || bar.from_ms > shown.to) continue;
    const from = Math.max(x(bar.from_ms), LABEL), to = Math.min(x(bar.to_ms), width - 8);
    const size = Math.max(to - from, bar.tone === "accused" ? 5 : 2);
    const rect = element("rect", { class: "bar " + bar.tone, x: from, y, width: size, height: ROW, rx: 2 }, group);
    rect.dataset.detail = bar.detail;
    const fits = Math.floor((size - 6) / 6.8);
    if (fits >= 4 || bar.text.length <= fits) {
      const text = element("text", { class: "inside", x: from + 4, y: y + ROW - 5 }, group);
      text.textContent = bar.text.length <= fits ? bar.text : bar.text.slice(0, fits - 1) + "…";
    } else if (bar.tone === "accused") {
      const place = { class: "beside", x: from - 4, y: y + ROW - 5, "text-anchor": "end" };
      element("text", place, group).textContent = bar.text;
    }
  }
  for (const mark of row.marks) {
    if (mark.at_ms < shown.from || mark.at_ms > shown.to) continue;
    const at = x(mark.at_ms);
    element("line", { class: "mark", x1: at, x2: at, y1: y + 2, y2: y + ROW - 2 }, group).dataset.detail = mark.detail;
    element("rect", { x: at - 4, y, width: 8, height: ROW, fill: "transparent" }, group).dataset.detail = mark.detail;
  }
}

function line(svg, x, at, kind, words, height, says) {
  if (at == null || at < shown.from || at > shown.to) return;
  const end = height - AXIS + 4;
  element("line", { class: kind, x1: x(at), x2: x(at), y1: 0, y2: end }, svg);
  const near = x(at) > LABEL + 80;
  const place = { class: "says " + kind, x: x(at) + (near ? -4 : 4), y: end + 11, "text-anchor": near ? "end" : "start" };
  element("text", place, svg).textContent = words;
  if (says) element("rect", { x: x(at) - 4, y: 0, width: 8, height: end, fill: "transparent" }, svg).dataset.detail = says;
}

function show(from, to) {
  const span = Math.min(Math.max(to - from, LEAST), END);
  const start = Math.min(Math.max(from, 0), END - span);
  shown = { from: start, to: start + span };
  draw();
}

function zoom(factor, around) {
  const at = around ?? (data.violation && data.violation.at_ms >= shown.from && data.violation.at_ms <= shown.to
    ? data.violation.at_ms : (shown.from + shown.to) / 2);
  show(at - (at - shown.from) * factor, at + (shown.to - at) * factor);
}

const actions = {
  in: () => zoom(0.6),
  out: () => zoom(1 / 0.6),
  left: () => move(-0.25),
  right: () => move(0.25),
  all: () => show(0, END),
  violation: () => data.violation && show(data.violation.at_ms - 4500, data.violation.at_ms + 500),
};

function move(part) {
  const by = (shown.to - shown.from) * part;
  show(shown.from + by, shown.to + by);
}

document.querySelectorAll("button[data-do]").forEach((button) => {
  button.addEventListener("click", () => actions[button.dataset.do]());
});
if (!data.violation) document.getElementById("to-violation").hidden = true;

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const keys = { "+": "in", "=": "in", "-": "out", ArrowLeft: "left", ArrowRight: "right", 0: "all", v: "violation" };
  if (keys[event.key]) { event.preventDefault(); actions[keys[event.key]](); }
});

for (const { svg } of lanes) {
  const time = (event) => {
    const box = svg.getBoundingClientRect();
    const part = (event.clientX - box.left - LABEL) / (box.width - LABEL - 8);
    return shown.from + Math.min(Math.max(part, 0), 1) * (shown.to - shown.from);
  };
  svg.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    zoom(event.deltaY < 0 ? 0.8 : 1.25, time(event));
  }, { passive: false });
  svg.addEventListener("pointerdown", (event) => {
    const begin = { x: event.clientX, ...shown };
    const perPixel = (shown.to - shown.from) / (svg.clientWidth - LABEL - 8);
    const drag = (moved) => {
      const by = (begin.x - moved.clientX) * perPixel;
      show(begin.from + by, begin.to + by);
    };
    const over = () => { removeEventListener("pointermove", drag); removeEventListener("pointerup", over); };
    addEventListener("pointermove", drag);
    addEventListener("pointerup", over);
  });
  svg.addEventListener("pointermove", (event) => {
    const says = event.target.dataset && event.target.dataset.detail;
    detail.hidden = !says;
    if (!says) return;
    detail.textContent = says;
    const left = Math.min(event.clientX + 14, innerWidth - detail.offsetWidth - 8);
    const below = event.clientY + 18 + detail.offsetHeight < innerHeight;
    detail.style.left = Math.max(left, 8) + "px";
    detail.style.top = (below ? event.clientY + 18 : event.clientY - detail.offsetHeight - 10) + "px";
  });
  svg.addEventListener("pointerleave", () => { detail.hidden = true; });
}

addEventListener("resize", draw);
draw();
