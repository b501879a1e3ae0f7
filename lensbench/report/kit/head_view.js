"use strict";
// The head view (Vig 2019): every token twice, and lines from those on the left to those on the
// right that they look at. Weights are thousandths, unpacked a block at a time when it is shown.
const rowHeight = 20, leastLine = 30, leastTold = 1, unmeasured = 65535;  // pixels; thousandths
const mostListed = 10;
const unpacked = new Map();

const percent = (weight) => weight === unmeasured ? "n/a" : (weight / 10).toFixed(1) + "%";
// The number of a weight: a token looks at itself and at those before, or at all n.
const cell = (looks, query, key) => (looks.both ? query * looks.tokens.length : query * (query + 1) / 2) + key;

function svg(name, attributes, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function weightsOf(number) {
  if (!unpacked.has(number)) unpacked.set(number, inflated(data.looks[number].weights).then((bytes) => new Uint16Array(bytes)));
  return unpacked.get(number);
}

// The weights of one head, or the mean of all.
function ofHead(looks, every, head) {
  const each = cell(looks, looks.tokens.length, 0);
  if (head !== null) return every.subarray(head * each, (head + 1) * each);
  const n_heads = every.length / each;
  return Float32Array.from({ length: each }, (_, i) => {
    let sum = 0;
    for (let h = 0; h < n_heads; h++) {
      const weight = every[h * each + i];
      if (weight === unmeasured) return unmeasured;
      sum += weight;
    }
    return sum / n_heads;
  });
}

// What a token looks at (`from`), or what looks at it (`to`): [place, weight] of each.
function around(drawn, { side, place }) {
  const last = side === "from" && !drawn.both ? place : drawn.tokens.length - 1, found = [];
  for (let other = side === "from" || drawn.both ? 0 : place; other <= last; other++) {
    found.push([other, drawn.weights[side === "from" ? cell(drawn, place, other) : cell(drawn, other, place)]]);
  }
  return found;
}

async function headView(box, frame, view, index) {
  box.wanted = view;
  const looks = data.looks[view.looks], every = await weightsOf(view.looks);
  if (box.wanted !== view) return;  // another was picked meanwhile
  const tokens = looks.tokens.map((word) => data.words[word]);
  if (String(box.drawn?.tokens) !== String(tokens)) box.pinned = null;
  widths.observe(box);
  const scrolled = box.querySelector(".lines")?.scrollTop ?? 0;
  const colour = view.head === null ? colours[0] : colours[view.head % colours.length];
  const drawn = box.drawn = { tokens, both: looks.both, weights: ofHead(looks, every, view.head), colour, index, width: box.clientWidth };
  const text = document.createElement("p"), lines = document.createElement("div");
  text.className = "running";
  lines.className = "lines";
  text.append(...tokens.map((token, place) => {
    const span = document.createElement("span");
    span.textContent = token;
    Object.assign(span.dataset, { side: "from", place });
    return span;
  }));
  box.replaceChildren(text, lines);
  lines.append(columns(box, drawn, lines.clientWidth));
  lines.scrollTop = scrolled;
  listen(box, text, lines);
  select(box, box.pinned);
}

// Tokens in two columns, all lines between them, and a place for those of one token.
function columns(box, drawn, width) {
  const n = drawn.tokens.length, number = 46, letter = 7.4, ends = Math.max(...drawn.tokens.map((token) => Array.from(token).length)) + 2;
  const whole = Math.min(width, 720), room = Math.min(letter * ends, 0.3 * (whole - 2 * number)), letters = Math.floor(room / letter) - 1;
  const [x0, x1] = [number + room, whole - number - room];
  drawn.path = (query, key, weight) => {
    const [y0, y1] = [query, key].map((place) => (place + 0.5) * rowHeight), middle = (x0 + x1) / 2;
    return svg("path", { d: `M${x0} ${y0}C${middle} ${y0} ${middle} ${y1} ${x1} ${y1}`, opacity: 0.12 + 0.88 * weight / 1000, "stroke-width": 1 + weight / 500 });
  };
  const strokes = { fill: "none", stroke: drawn.colour };
  drawn.all = svg("g", strokes);
  drawn.some = svg("g", strokes);
  for (let query = 0; query < n; query++) {
    for (const [key, weight] of around(drawn, { side: "from", place: query })) {
      if (weight >= leastLine && weight !== unmeasured) drawn.all.append(drawn.path(query, key, weight));
    }
  }
  const cut = (token) => { const each = Array.from(token); return each.length > letters ? each.slice(0, letters - 1).join("") + "…" : token; };
  const column = (side) => drawn.tokens.map((token, place) => {
    const left = side === "from", y = (place + 0.5) * rowHeight;
    const back = svg("rect", { x: left ? 0 : x1, y: place * rowHeight, width: number + room, height: rowHeight });
    const name = svg("text", { x: left ? x0 - 5 : x1 + 5, y, "text-anchor": left ? "end" : "start" }, cut(token));
    const told = svg("text", { x: left ? 0 : whole, y, "text-anchor": left ? "start" : "end", class: "told" });
    return svg("g", { "data-side": side, "data-place": place }, svg("title", {}, `${place}: ${token}`), back, name, told);
  });
  [drawn.from, drawn.to] = [column("from"), column("to")];
  return svg("svg", { width: whole, height: n * rowHeight, role: "img", "aria-label": "lines from each token to those it looks at" }, drawn.all, drawn.some, ...drawn.from, ...drawn.to);
}

function listen(box, text, lines) {
  const of = (event) => {
    const found = event.target.closest("[data-side]");
    return found && { side: found.dataset.side, place: +found.dataset.place };
  };
  for (const part of [text, lines]) {
    part.onpointerover = (event) => { if (event.pointerType !== "touch" && of(event)) select(box, of(event)); };
    part.onpointerleave = () => select(box, box.pinned);
    part.onclick = (event) => {
      const at = of(event), same = at && box.pinned?.side === at.side && box.pinned.place === at.place;
      box.pinned = same ? null : at;
      select(box, box.pinned);
      if (part === text && box.pinned) lines.scrollTop = (at.place + 0.5) * rowHeight - lines.clientHeight / 2;
    };
  }
}

// Shows one token's lines and numbers; without one, the lines of all.
function select(box, at) {
  const { drawn } = box, words = [...box.querySelectorAll(".running span")];
  const found = new Map(at ? around(drawn, at) : []), paint = (weight) => weight && weight !== unmeasured ? `color-mix(in srgb, ${drawn.colour} ${weight / 10}%, transparent)` : "";
  drawn.all.style.display = at ? "none" : "";
  drawn.some.replaceChildren(...[...found].filter(([, weight]) => weight >= leastTold && weight !== unmeasured).map(([other, weight]) => at.side === "from" ? drawn.path(at.place, other, weight) : drawn.path(other, at.place, weight)));
  for (const side of ["from", "to"]) {
    drawn[side].forEach((row, place) => {
      const weight = at && at.side !== side ? found.get(place) : undefined;
      row.classList.toggle("picked", !!at && at.side === side && at.place === place);
      row.querySelector("rect").style.fill = paint(weight);
      row.querySelector(".told").textContent = weight >= leastTold ? percent(weight) : "";
    });
  }
  words.forEach((word, place) => {
    word.classList.toggle("picked", at?.place === place);
    word.style.background = paint(found.get(place));
  });
  if (at === box.pinned) told(byId("list-" + drawn.index), drawn, at, found);
}

// The largest weights as text.
function told(list, drawn, at, found) {
  if (!at) return list.replaceChildren();
  const heading = document.createElement("div");
  heading.textContent = `${drawn.tokens[at.place]} (position ${at.place}) ${at.side === "from" ? "looks at" : "is looked at by"}:`;
  const largest = [...found].filter(([, weight]) => weight >= leastTold).sort((a, b) => b[1] - a[1]).slice(0, mostListed);
  list.replaceChildren(heading, table(largest.map(([place, weight]) => [percent(weight), drawn.tokens[place], `position ${place}`])));
}

// Lines are drawn for a width: another one draws them again.
const widths = new ResizeObserver((entries) => entries.forEach(({ target: box }) => {
  if (box.drawn && box.clientWidth !== box.drawn.width) draw(data.charts[box.drawn.index], box.drawn.index);
}));
