// --- into the model and through its blocks

const drawings = {};

drawings.pieces = (box) => {
  const cards = data.tokens.map((token, at) => make("button", { type: "button", ...pressed(at === state.position), onclick: () => set({ position: at }) }, make("b", {}, token.text), make("small", {}, whole(token.id))));
  const { text, spelled, id, start, end } = data.tokens[state.position];
  const where = start === null ? " It stands for none of the text: the tokenizer puts it there." : end - start === 1 ? ` It is character ${end} of the text.` : ` It is characters ${start + 1} to ${end} of the text.`;
  box.append(make("div", { class: "cards" }, ...cards), said(`Position ${state.position}: `, code(text), " is number ", make("b", {}, whole(id)), ", which the vocabulary spells ", code(spelled), ".", where));
};

drawings.embedding = (box) => {
  const p = state.position, vector = row("embedding", p), ids = row("neighbour_ids", p), cosines = row("neighbour_cosines", p);
  const first = Array.from(vector.subarray(0, 5), (v) => say(v, 3)).join(", ");
  const positions = tables.position_norms, more = positions ? [", and the row of its position has length ", positions.at[p]] : [];
  const own = make("div", {}, make("h3", {}, "x₀ of ", code(tokenText(p)), `: ${whole(vector.length)} numbers`), strip(vector), said(`${first}, … Its length is `, norm("state_norms", 0, p), ", the row's own ", tables.row_norms.at[p], ...more, "."),
    make("h3", {}, "Its neighbours: rows of W_E that point most nearly the same way"), bars(Array.from(ids, (id, i) => ({ name: pick(id), share: cosines[i], colour: css("--stream"), value: cosines[i].toFixed(3) }))));
  const rows = data.tokens.map((token, at) => ({ picked: at === p, cells: [code(token.text), norm("state_norms", 0, at).toFixed(2), code(Array.from(row("neighbour_ids", at).subarray(0, 3), (id) => words[id]).join("  "))] }));
  box.append(make("div", { class: "side" }, own, make("div", {}, make("h3", {}, "Every token"), tall(table(["token", "length of x₀", "nearest"], rows, [1])))));
};

drawings.positions = (box) => {
  if (!data.rotations.length) return;
  const which = data.rotation_of[state.block];
  if (which === null) return box.append(said(`Block ${state.block} turns nothing: its heads do not see positions.`));
  const turn = data.rotations[which], n = turn.per_token.at.length, p = state.position, pair = Math.min(state.pair, n - 1);
  const angle = (at, i) => turn.angles.at[at * n + i];
  const dials = Array.from({ length: n }, (_, i) => dial(angle(p, i), `pair ${i}`, i === pair, () => set({ pair: i })));
  const speed = turn.per_token.at[pair], degrees = (radians) => minus((radians * 180 / Math.PI).toFixed(1)) + "°";
  const [a, b] = turn.adjacent ? [2 * pair, 2 * pair + 1] : [pair, pair + n];
  const others = data.rotations.length > 1 ? ` Blocks differ: this is rotation ${which + 1} of ${data.rotations.length}, that of block ${state.block}.` : "";
  const stretched = Math.abs(turn.length - 1) > 1e-6 ? [" Each pair is also made ", turn.length, " times as long."] : [];
  box.append(make("h3", {}, `All ${n} pairs at position ${p}, `, code(tokenText(p)), others), make("div", { class: "dials" }, ...dials),
    said(`Pair ${pair} (numbers ${a} and ${b}) turns by `, speed, " radians a token", Math.abs(speed) > 0 ? ", once around in " : "", ...(Math.abs(speed) > 0 ? [2 * Math.PI / Math.abs(speed), ` tokens; at position ${p} it stands at `] : [`; at position ${p} it stands at `]), angle(p, pair), ` (${degrees(angle(p, pair))}).`, ...stretched),
    make("h3", {}, `Pair ${pair} at every position`), make("div", { class: "dials" }, ...data.tokens.map((token, at) => dial(angle(at, pair), `position ${at}: ${token.text}`, at === p, () => set({ position: at })))));
};

// A clock's hand at an angle, counter-clockwise from the right.
function dial(angle, name, picked, onclick) {
  const r = 13, [x, y] = [r * Math.cos(angle), -r * Math.sin(angle)];
  const face = svg("svg", { width: 32, height: 32, viewBox: "-16 -16 32 32", "aria-hidden": "true" }, svg("circle", { r: 14, fill: "none", stroke: css("--line") }), svg("line", { x1: 0, y1: 0, x2: x, y2: y, stroke: css("--attention"), "stroke-width": 2.5, "stroke-linecap": "round" }));
  return make("button", { type: "button", style: "padding:1px", title: `${name}: ${say(angle)} rad`, "aria-label": `${name}: ${say(angle)} radians`, ...pressed(picked), onclick }, face);
}

// A head's weights: the softmax of its scores, row by row, less what a sink takes.
function weights(block, head) {
  const n = data.tokens.length, cells = n * (n + 1) / 2, from = (block * data.architecture.n_heads + head) * cells;
  const scores = tables.scores.at.subarray(from, from + cells), found = new Float64Array(cells);
  for (let q = 0; q < n; q++) {
    const first = q * (q + 1) / 2, largest = scores.subarray(first, first + q + 1).reduce((a, b) => Math.max(a, b), -Infinity);
    let sum = 0;
    for (let k = first; k <= first + q; k++) sum += found[k] = Math.exp(scores[k] - largest);
    const share = tables.sums.at[(block * data.architecture.n_heads + head) * n + q] / sum;
    for (let k = first; k <= first + q; k++) found[k] *= share;
  }
  return { scores, found };
}

drawings.attention = (box) => {
  const n = data.tokens.length, { n_heads } = data.architecture, q = state.position, first = q * (q + 1) / 2;
  const heads = Array.from({ length: n_heads }, (_, head) => make("button", { type: "button", ...pressed(head === state.head), onclick: () => set({ head }) }, thumb(weights(state.block, head).found, n), String(head)));
  const { scores, found } = weights(state.block, state.head), window = data.windows[state.block];
  const query = tables.query_lengths && norm("query_lengths", state.block, state.head, q), keys = tables.key_lengths && row("key_lengths", state.block, state.head);
  const shown = (k) => minus(scores[first + k].toFixed(2)) + (keys ? "; " + say(keys[k], 3) : "");
  const rows = data.tokens.slice(0, q + 1).map((token, k) => ({ name: code(token.text), share: found[first + k], colour: css("--attention"), value: scores[first + k] === -Infinity ? "masked" : `${percent(found[first + k])}  (${shown(k)})` }));
  const far = window === null ? "" : ` Queries of this block look back over ${window} tokens at most.`;
  box.append(make("h3", {}, `All heads of block ${state.block}: query down, key across`), make("div", { class: "heads" }, ...heads),
    make("div", { class: "side" }, make("div", {}, make("h3", {}, `Block ${state.block}, head ${state.head}`), make("div", { class: "wide matrix" })), make("div", {}, make("h3", {}, code(tokenText(q)), ` looks at (weight; in parentheses the score${keys ? " and the key’s length" : ""})`), tall(bars(rows)), said(...(query === null ? [] : ["Its query has length ", query, "."]), far))));
  const place = box.querySelector(".matrix");
  place.append(matrix(found, n, place.clientWidth));
};

function thumb(found, n) {
  const canvas = make("canvas", { width: n, height: n, "aria-hidden": "true" }), brush = canvas.getContext("2d");
  brush.fillStyle = css("--attention");
  for (let q = 0, cell = 0; q < n; q++) for (let k = 0; k <= q; k++, cell++) {
    brush.globalAlpha = Math.sqrt(found[cell]);  // so small that faint ones would be lost
    brush.fillRect(k, q, 1, 1);
  }
  return canvas;
}

function matrix(found, n, width) {
  const long = Math.max(...data.tokens.map(({ text }) => Array.from(text).length)), letters = Math.min(long, 10), gutter = 12 + 8 * letters;
  const size = Math.max(5, Math.min(54, Math.floor((width - gutter) / n))), top = size >= 15 ? gutter : 6, readable = size >= 15;
  const cut = (text) => { const each = Array.from(text); return each.length > letters ? each.slice(0, letters - 1).join("") + "…" : text; };
  const drawing = svg("svg", { width: gutter + n * size + 2, height: top + n * size + 2, role: "img", "aria-label": "weights, query down and key across" });
  data.tokens.forEach(({ text }, at) => {
    if (readable) drawing.append(svg("text", { transform: `translate(${gutter + (at + 0.5) * size + 4} ${top - 6}) rotate(-90)` }, cut(text)));
    if (readable || at === state.position) drawing.append(svg("text", { x: gutter - 6, y: top + (at + 0.5) * size + 4, "text-anchor": "end", "font-weight": at === state.position ? 700 : 400 }, cut(text)));
  });
  for (let q = 0, cell = 0; q < n; q++) {
    const line = svg("g", {});
    line.addEventListener("click", () => set({ position: q }));
    for (let k = 0; k < n; k++) {
      const weight = k <= q ? found[cell++] : 0, at = { x: gutter + k * size, y: top + q * size, width: size - 1, height: size - 1, rx: 2 };
      line.append(svg("rect", { ...at, fill: k <= q ? tint(css("--attention"), weight) : "transparent", stroke: readable && k <= q ? css("--line") : "none", "stroke-width": 0.5 }, svg("title", {}, k <= q ? `${tokenText(q)} looks at ${tokenText(k)}: ${percent(weight)}` : "later: masked")));
    }
    drawing.append(line);
  }
  drawing.append(svg("rect", { x: gutter - 1.5, y: top + state.position * size - 1.5, width: n * size + 2, height: size + 2, fill: "none", stroke: css("--ink"), "stroke-width": 2, rx: 3, "pointer-events": "none" }));
  return drawing;
}

drawings.writes = (box) => {
  const side = (name, kind, colour) => {
    const ids = row(`${kind}_top_ids`, state.block, state.position), effects = row(`${kind}_top_effects`, state.block, state.position);
    const largest = Math.max(...effects, 1e-9);
    return make("div", {}, make("h3", {}, `${name} of block ${state.block} at `, code(tokenText(state.position))), said("It writes a vector of length ", norm(`${kind}_norms`, state.block, state.position), " and raises these most, in logits above the mean of all tokens:"),
      bars(Array.from(ids, (id, i) => ({ name: pick(id), share: effects[i] / largest, colour, value: signed(effects[i]) }))));
  };
  box.append(make("div", { class: "side" }, side("Attention", "attention", css("--attention")), side("MLP", "mlp", css("--mlp"))));
};

drawings.stream = (box) => {
  const { n_layers } = data.architecture, p = state.position, b = state.block;
  const states = Array.from({ length: n_layers + 1 }, (_, layer) => norm("state_norms", layer, p));
  const kinds = [["attention", css("--attention")], ["mlp", css("--mlp")]];
  const most = Math.max(...states, ...kinds.flatMap(([kind]) => Array.from({ length: n_layers }, (_, block) => norm(`${kind}_norms`, block, p))));
  const at = frame(box, n_layers, [0, most * 1.05], 300, "length of the stream and of what is written into it, by layer");
  const wide = Math.max(2, (at.x(1) - at.x(0)) * 0.3);
  at.drawing.append(svg("rect", { x: at.x(b), y: 0, width: at.x(b + 1) - at.x(b), height: at.height - 36, fill: tint(css("--link"), 0.12) }));
  for (let block = 0; block < n_layers; block++) {
    kinds.forEach(([kind, colour], i) => {
      const length = norm(`${kind}_norms`, block, p), x = at.x(block + 0.5) + (i - 1) * wide;
      at.drawing.append(svg("rect", { x, y: at.y(length), width: wide - 0.5, height: at.y(0) - at.y(length), fill: colour }, svg("title", {}, `${kind} of block ${block}: ${say(length)}`)));
    });
    const hit = svg("rect", { x: at.x(block), y: 0, width: at.x(block + 1) - at.x(block), height: at.height - 36, fill: "transparent" }, svg("title", {}, `block ${block}`));
    hit.addEventListener("click", () => set({ block }));
    at.drawing.append(hit);
  }
  at.drawing.append(svg("polyline", { points: states.map((value, layer) => `${at.x(layer)},${at.y(value)}`).join(" "), fill: "none", stroke: css("--stream"), "stroke-width": 3, "pointer-events": "none" }));
  const step = spaced(n_layers, at.width);
  beneath(at, states.map((_, layer) => [layer, String(layer)]).filter(([layer]) => layer % step === 0), "layer (0: the embedding)");
  const length = (name, colour, value) => [make("b", { style: `color:${colour}` }, name), " ", value];
  box.append(said("Lengths at ", code(tokenText(p)), ": ", make("b", { style: `color:${css("--stream")}` }, "the stream"), ", ", make("b", { style: `color:${css("--attention")}` }, "attention’s write"), ", ", make("b", { style: `color:${css("--mlp")}` }, "the MLP’s write"), "."), at.drawing,
    said(`Block ${b}: `, ...length("stream", css("--stream"), states[b]), ", ", ...length("attention", css("--attention"), norm("attention_norms", b, p)), ", ", ...length("MLP", css("--mlp"), norm("mlp_norms", b, p)), " → ", ...length("stream", css("--stream"), states[b + 1]), ". The three vectors add up to the next, off by ", norm("sum_errors", b, p), " of its length; their lengths do not, because they point different ways."));
};

drawings.lens = (box) => {
  const { n_layers } = data.architecture, cell = (layer, p) => [row("lens_ids", layer, p)[0], row("lens_probs", layer, p)[0]];
  const head = make("tr", {}, make("th", {}, "layer"), ...data.tokens.map(({ text }, p) => make("th", {}, p === state.position ? make("b", {}, text) : text)));
  const rows = Array.from({ length: n_layers + 1 }, (_, layer) => make("tr", {}, make("th", {}, String(layer)), ...data.tokens.map((_, p) => {
    const [id, prob] = cell(layer, p), here = layer === state.layer && p === state.position;
    return make("td", {}, make("button", { type: "button", style: `background:${tint(css("--stream"), 0.75 * prob)}`, title: `layer ${layer}, position ${p}: ${words[id]} ${percent(prob)}`, tabindex: here ? 0 : -1, "data-cell": `${layer},${p}`, ...pressed(here), onclick: () => set({ layer, position: p }) }, words[id]));
  })));
  const ids = row("lens_ids", state.layer, state.position), probs = row("lens_probs", state.layer, state.position);
  const grid = make("table", { class: "grid" }, make("thead", {}, head), make("tbody", {}, ...rows));
  grid.addEventListener("keydown", walkGrid);
  const reading = make("div", {}, make("h3", {}, `Layer ${state.layer} at `, code(tokenText(state.position)), " would say"), bars(Array.from(ids, (id, i) => ({ name: pick(id), share: probs[i], colour: css("--stream"), value: percent(probs[i]) }))),
    said("Entropy ", norm("lens_entropy", state.layer, state.position), " bits; ", norm("lens_kl", state.layer, state.position), " bits from what the model says in the end (KL)."));
  box.append(make("div", { class: "side reading" }, make("div", { class: "wide" }, grid), reading));
};

// Arrow keys go from cell to cell.
function walkGrid(event) {
  const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
  if (!step) return;
  event.preventDefault();
  const layer = Math.min(Math.max(state.layer + step[0], 0), data.architecture.n_layers), position = Math.min(Math.max(state.position + step[1], 0), data.tokens.length - 1);
  set({ layer, position });
  document.querySelector(`[data-cell="${layer},${position}"]`).focus();
}
