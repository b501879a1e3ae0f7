// --- what drawings are made of

const byId = (id) => document.getElementById(id);
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const minus = (text) => text.replaceAll("-", "−");
const say = (value, digits = 4) => value === 0 ? "0" : minus(Math.abs(value) >= 1e5 || Math.abs(value) < 1e-3 ? value.toExponential(2) : String(+value.toPrecision(digits)));
const signed = (value) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(2);
const percent = (share) => share >= 0.9995 ? "100 %" : share >= 0.0995 ? (100 * share).toFixed(1) + " %" : share >= 1e-4 ? (100 * share).toFixed(2) + " %" : minus((100 * share).toExponential(1)) + " %";
const whole = (n) => n.toLocaleString("en-US");

function made(element, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "onclick") element.addEventListener("click", value);
    else if (value !== undefined && value !== null) element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
}
const make = (name, attributes = {}, ...children) => made(document.createElement(name), attributes, children);
const svg = (name, attributes = {}, ...children) => made(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);

const pressed = (yes) => ({ "aria-pressed": String(!!yes) });
const code = (text) => make("span", { class: "token" }, text);

// A sentence of text and numbers; numbers are bold.
function said(...parts) {
  return make("p", { class: "said" }, ...parts.map((part) => typeof part === "number" ? make("b", {}, say(part)) : part));
}

function table(heads, rows, numbers = []) {
  const side = (i) => numbers.includes(i) ? { class: "number" } : {};
  const line = (cells, name, more = {}) => make("tr", more, ...cells.map((cell, i) => make(name, side(i), cell)));
  return make("div", { class: "wide" }, make("table", {}, make("thead", {}, line(heads, "th")), make("tbody", {}, ...rows.map(({ cells, picked }) => line(cells, "td", picked ? { class: "picked" } : {})))));
}

// Rows of a name, a bar and a value. `share` is the bar's length, `ghost` a mark where another would end.
function bars(rows) {
  const each = rows.flatMap(({ name, share, ghost, colour, value, out }) => {
    const long = (part) => `width:${(100 * Math.min(Math.max(part, 0), 1)).toFixed(3)}%`, faded = out ? " out" : "";
    const inside = [make("i", { style: `${long(share)};background:${colour}` })];
    if (ghost !== undefined) inside.push(make("i", { class: "ghost", style: `left:${long(ghost).slice(6)}` }));
    return [make("span", { class: "name" + faded }, name), make("span", { class: "track" + faded }, ...inside), make("span", { class: "value" + faded }, value)];
  });
  return make("div", { class: "bars" }, ...each);
}

// What may be long scrolls by itself.
const tall = (content) => make("div", { class: "tall", tabindex: 0 }, content);

// A token that can be asked for its path.
function pick(id) {
  return make("button", { type: "button", class: "pick", title: `token ${id}: show its path`, onclick: () => set({ asked: id }) }, words[id]);
}

const tint = (colour, share) => `color-mix(in srgb, ${colour} ${(100 * Math.min(Math.max(share, 0), 1)).toFixed(2)}%, transparent)`;

// Numbers as a strip of colours: negative ones blue, positive ones orange.
function strip(values) {
  const canvas = make("canvas", { class: "strip", width: values.length, height: 1, role: "img", "aria-label": `${values.length} numbers` });
  const brush = canvas.getContext("2d"), largest = values.reduce((most, v) => Math.max(most, Math.abs(v)), 0);
  values.forEach((value, i) => {
    brush.globalAlpha = Math.sqrt(Math.abs(value) / largest);
    brush.fillStyle = css(value < 0 ? "--attention" : "--mlp");
    brush.fillRect(i, 0, 1, 1);
  });
  return canvas;
}

// Marks at round numbers between two ends.
function ticks(low, high, most = 5) {
  const raw = (high - low) / most, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((k) => k * power).find((s) => s >= raw), found = [];
  for (let at = Math.ceil(low / step); at * step <= high + 1e-12; at++) found.push(at * step);
  return found;
}

// A frame with a y axis and x from 0 to n: where things are, and the drawing itself.
function frame(box, n, [low, high], height, label) {
  const width = Math.max(box.clientWidth, 280), left = 52, right = 12, top = 12, bottom = 36;
  const x = (at) => left + (width - left - right) * at / n, y = (value) => top + (height - top - bottom) * (high - value) / (high - low);
  const drawing = svg("svg", { width, height, role: "img", "aria-label": label });
  for (const value of ticks(low, high)) {
    drawing.append(svg("line", { class: "axis", x1: left, x2: width - right, y1: y(value), y2: y(value) }), svg("text", { class: "soft", x: left - 6, y: y(value) + 4, "text-anchor": "end" }, say(value, 3)));
  }
  return { drawing, x, y, width, height, left, right };
}

// What stands beneath the x axis: numbers at some places, and what they count.
function beneath({ drawing, x, width, height, left }, places, name) {
  for (const [at, text] of places) drawing.append(svg("text", { class: "soft", x: x(at), y: height - 20, "text-anchor": "middle" }, text));
  drawing.append(svg("text", { class: "soft", x: (left + width) / 2, y: height - 3, "text-anchor": "middle" }, name));
}

// Every so many of n, so that their numbers do not meet.
const spaced = (n, width, each = 34) => Math.max(1, Math.ceil(n * each / width));
