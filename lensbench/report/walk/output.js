// --- out of the model, and back

const SHOWN = 12;

drawings.logits = (box) => {
  const logits = tables.logits.at, most = logits[order[0]], least = logits[order[order.length - 1]];
  let sum = 0;
  for (const z of logits) sum += z;
  const mean = sum / logits.length, top = Array.from(order.subarray(0, SHOWN));
  box.append(make("div", { class: "side" },
    make("div", {}, make("h3", {}, "The largest, behind ", code(tokenText(data.tokens.length - 1))), bars(top.map((id) => ({ name: pick(id), share: (logits[id] - mean) / (most - mean), colour: css("--said"), value: minus(logits[id].toFixed(3)) }))), said("Bars begin at the mean of all.")),
    make("div", {}, make("h3", {}, `How many of ${whole(logits.length)} tokens have which logit`), make("div", { class: "spread" }), said("Largest ", most, ", mean ", mean, ", smallest ", least, ". Only differences count: a number added to all changes no probability."))));
  const place = box.querySelector(".spread");
  place.append(histogram(place, logits, least, most));
};

function histogram(box, values, least, most) {
  const n = 60, counts = new Array(n).fill(0);
  for (const value of values) if (value > -Infinity) counts[Math.min(n - 1, Math.floor(n * (value - least) / (most - least || 1)))]++;
  const at = frame(box, n, [0, Math.max(...counts)], 240, "histogram of the logits");
  counts.forEach((count, i) => at.drawing.append(svg("rect", { x: at.x(i), y: at.y(count), width: Math.max(at.x(1) - at.x(0) - 1, 1), height: at.y(0) - at.y(count), fill: css("--said") })));
  const x = (value) => n * (value - least) / (most - least || 1), asked = askedToken();
  at.drawing.append(svg("line", { x1: at.x(x(values[asked])), x2: at.x(x(values[asked])), y1: 4, y2: at.y(0), stroke: css("--ink"), "stroke-width": 2, "stroke-dasharray": "4 3" }, svg("title", {}, words[asked])));
  beneath(at, ticks(least, most, 6).map((value) => [x(value), say(value, 3)]), "logit; dashed: " + words[asked]);
  return at.drawing;
}

drawings.probabilities = (box) => {
  const { probs, kept, mass } = current, largest = Math.max(probs[0] / mass, probs[0]);
  const rows = Array.from(order.subarray(0, SHOWN), (id, place) => {
    const after = place < kept ? probs[place] / mass : 0;
    return { name: pick(id), share: after / largest, ghost: probs[place] / largest, colour: css("--said"), value: place < kept ? `${percent(probs[place])} → ${percent(after)}` : `${percent(probs[place])} → 0`, out: place >= kept };
  });
  const few = kept === 1 ? "1 token" : `${whole(kept)} tokens`;
  box.append(bars(rows), said("Mark: the softmax at this temperature; bar: after top-p, which keeps ", make("b", { id: "kept" }, few), ` of ${whole(probs.length)}, which had `, make("b", { id: "mass" }, percent(mass)), " of the probability. Entropy ", entropyBits(probs, probs.length, 1), " bits before and ", entropyBits(probs, kept, mass), " after. Every token counts, also those that are not drawn here."));
};

drawings.draw = (box) => {
  const { probs, kept, mass } = current, u = uniform(state.seed), { place, start, end } = drawn(current, u);
  const line = make("div", { class: "line", role: "img", "aria-label": "the kept tokens, each as long as its probability" }), colours = ["--said", "--attention", "--stream", "--mlp"].map(css);
  let shown = 0, gone = 0;
  while (shown < kept && shown < 40 && probs[shown] / mass >= 0.004) {
    const share = probs[shown] / mass;
    line.append(make("i", { style: `flex:0 0 ${100 * share}%;background:${colours[shown % 4]};${shown === place ? "" : "opacity:.5"}`, title: `${words[order[shown]]}: ${percent(share)}` }, share > 0.05 ? words[order[shown]] : ""));
    gone += share;
    shown++;
  }
  if (shown < kept) line.append(make("i", { style: `flex:1 1 0;background:${css("--soft")};${place < shown ? "opacity:.4" : ""}` }, 1 - gone > 0.12 ? `${whole(kept - shown)} more` : ""));
  const id = order[place];
  box.append(line, make("div", { class: "pin", style: `--at:${100 * u}%` }, make("b", { style: `left:${Math.min(Math.max(100 * u, 8), 92)}%` }, `u = ${u.toFixed(4)}`)),
    make("p", { class: "big" }, "Seed ", String(state.seed), " gives ", make("span", { class: "token", id: "said" }, words[id]), "."), said("u = ", make("b", { id: "u" }, u.toFixed(10)), ", and the stretch of this token goes from ", make("b", { id: "start" }, start.toFixed(10)), " to ", make("b", { id: "end" }, end.toFixed(10)), `: its probability is ${percent(end - start)}, it is number ${whole(place + 1)} of ${whole(kept)}. The seed goes through mulberry32, a small generator of random numbers, in this page.`));
};

// The token whose path is shown: the one that was asked for, or else that which was drawn.
function askedToken() {
  return state.asked ?? order[drawn(current, uniform(state.seed)).place];
}

function partNames() {
  const blocks = Array.from({ length: data.architecture.n_layers }, (_, b) => [`attention ${b}`, `MLP ${b}`]);
  return ["embedding", ...blocks.flat(), "rounding"];
}

drawings.path = (box) => {
  const id = askedToken(), at = tables.path_ids.at.indexOf(id), drew = order[drawn(current, uniform(state.seed)).place];
  const options = [[drew, "drawn: "], ...Array.from(order.subarray(0, 20), (one) => [one, ""])];
  if (!options.some(([one]) => one === id)) options.push([id, ""]);
  byId("asked").replaceChildren(...options.map(([one, what], i) => make("option", { value: i === 0 ? "" : one }, what + words[one])));
  byId("asked").value = state.asked === null ? "" : String(state.asked);
  if (at < 0) return box.append(said("The paths on this page are those of the ", make("b", {}, whole(tables.path_ids.at.length)), " likeliest tokens, and ", code(words[id]), " is not among them. Lower the temperature or top-p, or choose another token."));
  const parts = tables.path_means.at.length, less = state.above ? 1 : 0;
  const effects = Array.from({ length: parts }, (_, part) => tables.path_effects.at[at * parts + part] - less * tables.path_means.at[part]);
  const constant = tables.path_constants.at[at] - less * data.mean_constant, sum = effects.reduce((a, b) => a + b, 0) + constant;
  const { soft_cap } = data.architecture, z = tables.logits.at[id], capped = soft_cap === null ? sum : soft_cap * Math.tanh(sum / soft_cap);
  const chart = make("div", {});
  box.append(chart);
  chart.append(votes(box, effects));
  const group = (kind) => effects.slice(1, -1).filter((_, i) => i % 2 === (kind === "attention" ? 0 : 1)).reduce((a, b) => a + b, 0);
  const part = (name, colour, value) => [make("b", { style: `color:${colour}` }, name + " "), make("b", {}, signed(value))];
  box.append(make("p", {}, ...part("embedding", css("--stream"), effects[0]), " ", ...part("attention", css("--attention"), group("attention")), " ", ...part("MLPs", css("--mlp"), group("mlp")), ` biases ${signed(constant)}, rounding ${minus(effects[parts - 1].toExponential(1))} = `, make("b", { id: "sum" }, sum.toFixed(4)), state.above ? " above the mean of all tokens." : "."),
    state.above ? "" : said(soft_cap === null ? "The model’s own logit of " : `The soft cap makes ${capped.toFixed(4)} of it; the model’s own logit of `, code(words[id]), " is ", make("b", { id: "own" }, z.toFixed(4)), `: the sum is off by ${minus(Math.abs(capped - z).toExponential(1))}.`), everyPart(effects, constant));
};

// A bar for every part, up for the token and down against it.
function votes(box, effects) {
  const { n_layers } = data.architecture, low = Math.min(0, ...effects), high = Math.max(0, ...effects), room = 0.06 * (high - low) || 1;
  const at = frame(box, n_layers + 1, [low - room, high + room], 320, "what each part adds to the logit");
  const width = at.x(1) - at.x(0), wide = Math.max(2, width * 0.38), names = partNames();
  effects.slice(0, -1).forEach((value, part) => {
    const block = Math.floor((part - 1) / 2), kind = part === 0 ? "--stream" : part % 2 ? "--attention" : "--mlp";
    const x = part === 0 ? at.x(0.5) - wide / 2 : at.x(block + 1.5) + (part % 2 ? -wide : 0);
    const bar = svg("rect", { x, y: at.y(Math.max(value, 0)), width: wide - 0.5, height: Math.max(Math.abs(at.y(0) - at.y(value)), 0.5), fill: css(kind) }, svg("title", {}, `${names[part]}: ${signed(value)}`));
    at.drawing.append(bar);
  });
  at.drawing.append(svg("line", { x1: at.left, x2: at.width - at.right, y1: at.y(0), y2: at.y(0), stroke: css("--soft") }));
  const step = spaced(n_layers, at.width);
  beneath(at, [[0.5, "E"], ...Array.from({ length: n_layers }, (_, b) => [b + 1.5, String(b)]).filter((_, b) => b % step === 0 && (b > 0 || step === 1))], "block (E: the embedding)");
  return at.drawing;
}

function everyPart(effects, constant) {
  let sum = 0;
  const rows = [...effects.slice(0, -1).map((value, i) => [partNames()[i], value]), ["biases", constant], ["rounding", effects[effects.length - 1]]];
  return make("details", { ...(state.parts ? { open: "" } : {}) }, make("summary", { onclick: () => { state.parts = !state.parts; } }, "Every part as a number"), table(["part", "adds", "sum so far"], rows.map(([name, value]) => ({ cells: [name, value.toFixed(4), (sum += value).toFixed(4)] })), [1, 2]));
}
