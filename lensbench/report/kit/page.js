"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const colours = data.colours;
const grey = "#768390", diverging = [[0, "#2166ac"], [0.5, "#f7f7f7"], [1, "#b2182b"]];
const symbols = ["circle", "square", "triangle-up", "triangle-down"];
const config = { displayModeBar: false, responsive: true, typesetMath: false };
const narrow = () => document.documentElement.clientWidth < 700;

// Plotly reads a little HTML in its texts: tokens must not.
const plain = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
const show = (value) => value === null ? "n/a" : Math.abs(value) >= 100 ? value.toFixed(0) : String(+value.toPrecision(4));
const number = (axis, value) => axis.percent && value !== null ? show(100 * value) + " %" : show(value);
const hover = (...parts) => parts.filter((part) => part !== "").map(plain).join("<br>");
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const cut = (text, n) => { const c = Array.from(text); return plain(c.length > n ? c.slice(0, n - 1).join("") + "…" : text); };
const brief = (text) => cut(text, 9);
// A long title takes two lines on a phone.
const folded = (text) => narrow() && text.length > 36 ? text.replace(/^(.{12,36}) /, "$1\n") : text;
const titled = (axis) => ({ exponentformat: "e", title: { text: plain(folded(axis.title)).replace("\n", "<br>") }, ...(axis.percent ? { tickformat: ".0%" } : {}), ...(axis.log ? { type: "log", tickformat: "~r" } : {}) });

function look(extra) {
  const axis = { gridcolor: css("--line"), zerolinecolor: css("--line"), linecolor: css("--line") };
  const layout = { paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: css("--ink"), size: 13 } };
  for (const [key, value] of Object.entries(extra)) layout[key] = /^[xy]axis/.test(key) ? { ...axis, ...value } : value;
  return layout;
}

// A value with its interval, as in the tables.
function interval(axis, line, k) {
  const alone = number(axis, line.y[k]);
  return line.low && line.low[k] !== null ? `${alone} [${number(axis, line.low[k])}, ${number(axis, line.high[k])}]` : alone;
}

// An interval as a polygon for each run of points that have one: what is missing stays empty.
function ribbon(x, lows, highs, colour, place) {
  const polygon = { x: [], y: [] };
  let run = [];
  for (let k = 0; k <= x.length; k++) {
    if (k < x.length && lows[k] !== null && highs[k] !== null) { run.push(k); continue; }
    if (run.length) {
      const back = [...run].reverse();
      polygon.x.push(...run.map((j) => x[j]), ...back.map((j) => x[j]), null);
      polygon.y.push(...run.map((j) => lows[j]), ...back.map((j) => highs[j]), null);
    }
    run = [];
  }
  return { ...place, ...polygon, mode: "lines", line: { width: 1, color: colour + "33" }, fill: "toself", fillcolor: colour + "33", hoverinfo: "skip", showlegend: false };
}

// Stretches along x, and a line at zero.
function marks(frame, view, zero) {
  const band = { type: "rect", yref: "paper", y0: 0, y1: 1, fillcolor: grey, opacity: 0.22, line: { width: 0 }, layer: "below" };
  return [...view.shade.map(([x0, x1]) => ({ ...band, x0, x1 })), ...(frame.zero ? [{ type: "line", line: { color: grey, width: 1 }, ...zero }] : [])];
}

// --- how each kind of view is drawn: its traces and its layout

const MANY = 12;  // curves, beyond which their names leave no room for them, nor do intervals for one another
const crowded = (view) => view.lines.length > MANY;

function curves(frame, view, under) {
  const traces = [];
  view.lines.forEach((line, i) => {
    const x = frame.places[frame.at[i]], labels = frame.labels[frame.at[i]];
    const colour = colours[i % colours.length], place = { legendgroup: frame.names[i] }, p = line.p || [];
    if (line.low && !crowded(view)) traces.push(ribbon(x, line.low, line.high, colour, place));
    const text = x.map((_, k) => hover(frame.names[i], labels[k], interval(frame.y, line, k), p.length ? "adjusted p " + show(p[k]) : ""));
    const style = under ? { mode: "lines", line: { color: colour, dash: "dot", width: 1.5 } } : { mode: "lines+markers", line: { color: colour, dash: frame.dashes[i] }, marker: { size: 4 } };
    traces.push({ ...place, ...style, x, y: line.y, meta: { line: i }, showlegend: !under && frame.names[i] !== "", name: plain(frame.names[i]), hoverinfo: "text", hovertext: text });
    const firm = x.map((_, k) => k).filter((k) => p.length && p[k] !== null && p[k] < data.level);
    if (firm.length) traces.push({ ...place, x: firm.map((k) => x[k]), y: firm.map((k) => line.y[k]), mode: "markers", marker: { color: colour, size: 9 }, hoverinfo: "skip", showlegend: false });
  });
  return traces;
}

function lines(frame, view, chart) {
  const beneath = chart.under ? curves(data.frames[chart.under.frame], chart.under, true) : [];
  const traces = [...beneath, ...curves(frame, view, false)], many = crowded(view);
  const said = { text: `${view.lines.length} curves: hover or tap for a name and its interval`, showarrow: false, xref: "paper", yref: "paper", x: 0, y: 1, xanchor: "left", yanchor: "bottom" };
  return [traces, {
    annotations: many ? [said] : [], height: chart.size === "small" ? 330 : 420, margin: { l: 65, r: 20, t: 20, b: 60 }, legend: { orientation: "h", y: 1.03, yanchor: "bottom" }, showlegend: !many, hovermode: "closest",
    shapes: marks(frame, view, { xref: "paper", x0: 0, x1: 1, y0: 0, y1: 0 }), xaxis: titled(frame.x), yaxis: { ...titled(chart.size === "small" ? { ...frame.y, title: "" } : frame.y), ...(view.limits ? { range: view.limits } : {}) },
  }];
}

function map(frame, view) {
  const place = (axis, k) => frame.names ? frame.names[k] : `${axis.title} ${k}`;
  const text = view.grid.map((row, j) => row.map((value, i) => hover(`${place(frame.y, j)}, ${place(frame.x, i)}`, show(value))));
  const trace = { type: "heatmap", z: view.grid, zmin: frame.limits[0], zmax: frame.limits[1], colorscale: frame.zero ? diverging : "Viridis", hoverinfo: "text", hovertext: text, colorbar: { thickness: 12 } };
  const whole = (n) => Math.max(1, Math.ceil(n / 8));  // places have whole numbers
  const named = frame.names && frame.names.length <= 24;
  const ticks = (n) => named ? { tickvals: frame.names.map((_, k) => k), ticktext: frame.names.map((text) => cut(text, narrow() ? 9 : 28)), tickangle: "auto", automargin: true } : { tick0: 0, dtick: whole(n) };
  const axis = (n) => ({ showgrid: false, zeroline: false, constrain: "domain", ...ticks(n) });
  return [[trace], { height: narrow() ? 360 : 480, margin: { l: 55, r: 10, t: 20, b: 55 }, xaxis: { ...titled(frame.x), ...axis((view.grid[0] || []).length) }, yaxis: { ...titled(frame.y), ...axis(view.grid.length), scaleanchor: "x", ...(named ? { autorange: "reversed" } : {}) } }];
}

function dots(frame, view) {
  const rows = view.lines, at = rows.map((_, i) => i), middle = (frame.series.length - 1) / 2;
  const main = frame.series.map((series, j) => {
    const value = rows.map((row) => row.y[j]), colour = colours[j % colours.length];
    const reach = (end) => rows.map((row, i) => row[end] && row[end][j] !== null ? Math.abs(row[end][j] - value[i]) : 0);
    return {
      x: value, y: at.map((i) => i + 0.3 * (j - middle)), mode: "markers", name: plain(series), meta: { series: j }, showlegend: series !== "",
      marker: { color: colour, size: 10, symbol: symbols[j % symbols.length] }, hoverinfo: "text", hovertext: rows.map((row, i) => hover(frame.names[i], series, interval(frame.x, row, j))),
      error_x: { type: "data", symmetric: false, array: reach("high"), arrayminus: reach("low"), color: colour, width: 0 },
    };
  });
  const small = rows.flatMap((row, i) => (row.small || []).map((x, k) => ({ x, y: i + 0.25, text: hover(frame.names[i], frame.labels[k], number(frame.x, x)) })));
  const beside = { x: small.map((s) => s.x), y: small.map((s) => s.y), mode: "markers", marker: { color: grey, size: 6 }, hoverinfo: "text", hovertext: small.map((s) => s.text), showlegend: false };
  const many = frame.series.length > 1;
  const name = (text) => {
    if (!narrow() || text.length <= 18) return plain(text);
    const [, head, n] = /^(.*?)( \(n = \d+\))?$/s.exec(text);
    return plain(head.length > 18 ? head.slice(0, 17) + "…" : head) + (n ? "<br>" + n.trim() : "");
  };
  return [[...main, beside], {
    height: 140 + (many ? 56 : 46) * rows.length, margin: { l: 10, r: 20, t: 20, b: 60 }, showlegend: many, legend: { orientation: "h", y: 1.02, yanchor: "bottom" }, hovermode: "closest",
    shapes: marks(frame, view, { yref: "paper", x0: 0, x1: 0, y0: 0, y1: 1 }), xaxis: titled(frame.x),
    yaxis: { tickvals: at, ticktext: frame.names.map(name), range: [rows.length - 0.5, -0.5], automargin: true, zeroline: false },
  }];
}

// The lines of one cell, for the hover and for the list below.
function describe(frame, cells, l, p) {
  const tops = cells.top[l][p].map((t, i) => [data.words[t], show(cells.probs[l][p][i] ?? null)]);
  const numbers = Object.entries(frame.measures).map(([name, title]) => [title, show(cells.measures[name][l][p])]);
  return [["layer " + cells.layers[l], "position " + cells.positions[p]], ...tops, ...numbers, ["rank of the answer", show(cells.rank[l][p])]];
}

function tokens(frame, view, chart, box) {
  const cells = data.cells[view.cells], bits = /bits/.test(frame.colour), many = cells.layers.length;
  const each = (make) => cells.layers.map((_, l) => cells.positions.map((_, p) => make(l, p)));
  const trace = {
    type: "heatmap", y: cells.layers, x: cells.positions.map((_, p) => p), xgap: 1, ygap: 1,
    z: frame.colour ? cells.measures[frame.colour] : each((l, p) => cells.probs[l][p][0] ?? null),
    text: each((l, p) => brief(data.words[cells.top[l][p][0]] ?? "")), texttemplate: "%{text}", textfont: { size: 11 },
    hoverinfo: "text", hovertext: each((l, p) => describe(frame, cells, l, p).map((pair) => pair.map(plain).join("  ")).join("<br>")),
    colorscale: "Viridis", reversescale: bits, zmin: 0, ...(bits ? {} : { zmax: 1 }),
    colorbar: { title: { text: plain(frame.measures[frame.colour] || "probability of the top token"), side: "right" }, thickness: 12 },
  };
  const shapes = [];
  cells.rank.forEach((row, l) => row.forEach((rank, p) => {
    if (rank === 1) shapes.push({ type: "rect", x0: p - 0.48, x1: p + 0.48, y0: cells.layers[l] - 0.46, y1: cells.layers[l] + 0.46, line: { color: "#ff7f2a", width: 2 } });
  }));
  const names = cells.tokens.map((t) => brief(data.words[t])), wanted = 180 + 90 * names.length;
  return [[trace], {
    height: 120 + 22 * many, margin: { l: 55, r: 10, t: 10, b: 75 }, shapes, width: narrow() ? Math.max(wanted, 320) : Math.max(260, Math.min(box.clientWidth || 800, wanted)),
    xaxis: { tickvals: trace.x, ticktext: names, title: { text: "position (its token)" }, showgrid: false, zeroline: false },
    yaxis: { title: { text: "layer" }, dtick: many > 24 ? 2 : 1, showgrid: false, zeroline: false },
  }];
}

function table(rows) {
  const made = document.createElement("table");
  for (const cells of rows) {
    const row = made.insertRow();
    for (const cell of cells) row.insertCell().append(cell);
  }
  return made;
}

const kinds = { lines, map, dots, tokens };
// What Plotly does not draw.
const others = { nothing: (box) => box.replaceChildren(), texts: (box, frame, view) => box.replaceChildren(table(view.texts)), headview: headView };

// --- what is picked, and what can be

const pickers = data.pickers.map((picker, i) => ({
  ...picker, index: i, select: byId("picker-" + i), options: [...byId("picker-" + i).options], first: byId("picker-" + i).value,
  filters: [...document.querySelectorAll(`.pickers [data-of="${i}"]`)],
}));
const itemsOf = (chart) => chart.pickers.map((i) => pickers[i]).find((picker) => picker.facets);
const place = (chart, other = {}) => chart.pickers.map((i) => other[i] ?? pickers[i].select.value).join(",");

// The options that the filters leave; what is no item (the mean over all) always stays.
function matching(picker) {
  return picker.options.filter((option) => picker.keys[option.value] === "" || picker.filters.every((filter) => {
    if (filter.dataset.facet === "find") return option.textContent.toLowerCase().includes(filter.value.trim().toLowerCase());
    return filter.value === "" || picker.facets[filter.dataset.facet][option.value] === filter.value;
  }));
}

function refill(picker) {
  if (!picker.facets) return;
  const picked = picker.select.value, left = matching(picker), items = left.filter((option) => picker.keys[option.value] !== "");
  picker.select.replaceChildren(...(left.length ? left : picker.options.filter((option) => option.value === picked)));
  picker.select.value = left.some((option) => option.value === picked) || !left.length ? picked : left[0].value;
  byId("count-" + picker.index).textContent = `${items.length} of ${picker.keys.filter((key) => key !== "").length} ${picker.name}s`;
}

function remember() {
  const state = new URLSearchParams();
  for (const picker of pickers) {
    for (const filter of picker.filters) if (filter.value) state.set(`${picker.name}.${filter.dataset.facet}`, filter.value);
    if (picker.select.value !== picker.first) state.set(picker.name, picker.keys[picker.select.value]);
  }
  history.replaceState(null, "", "#" + state);
}

// What the link says is picked; what is not on this page is said.
function restore() {
  const state = new URLSearchParams(location.hash.slice(1)), unknown = [];
  for (const picker of pickers) {
    for (const filter of picker.filters) {
      const wanted = state.get(`${picker.name}.${filter.dataset.facet}`) ?? "";
      filter.value = wanted;
      if (filter.value !== wanted) { unknown.push(`${filter.dataset.facet} “${wanted}”`); filter.value = ""; }
    }
    picker.select.replaceChildren(...picker.options);
    const wanted = state.get(picker.name), found = picker.keys.indexOf(wanted);
    if (wanted !== null && found < 0) unknown.push(`${picker.name} “${wanted}”`);
    picker.select.value = found < 0 ? picker.first : found;
    refill(picker);
  }
  byId("unknown").textContent = unknown.length ? `Not on this page, though the link names it: ${unknown.join(", ")}. What is shown instead is picked above.` : "";
}

// --- drawing

function draw(chart, index) {
  const box = byId("chart-" + index), view = chart.views[place(chart)], frame = data.frames[view.frame];
  byId("note-" + index).textContent = frame.note;
  byId("images-" + index).hidden = !kinds[frame.kind];
  for (const kind of ["texts", "headview"]) box.classList.toggle(kind, frame.kind === kind);
  if (others[frame.kind]) {
    if (box.data) Plotly.purge(box);
    return others[frame.kind](box, frame, view, index);
  }
  const [traces, layout] = kinds[frame.kind](frame, view, chart, box);
  Plotly.react(box, traces, look(layout), { ...config, responsive: !layout.width });
  box.removeAllListeners("plotly_click");
  box.on("plotly_click", (event) => clicked(chart, index, frame, view, event.points[0]));
}

const drawAll = () => data.charts.forEach(draw);

function changed() {
  for (const list of document.querySelectorAll(".list")) list.replaceChildren();
  byId("unknown").textContent = "";
  remember();
  drawAll();
}

function clicked(chart, index, frame, view, point) {
  const list = byId("list-" + index);
  if (frame.kind === "tokens") return list.replaceChildren(table(describe(frame, data.cells[view.cells], ...point.pointNumber)));
  if (frame.kind === "map") return pickNamed({ [frame.y.title]: point.y, [frame.x.title]: point.x });
  const meta = point.data.meta, picker = itemsOf(chart);
  if (!meta) return;
  const [line, k] = frame.kind === "dots" ? [point.pointNumber, meta.series] : [meta.line, point.pointNumber];
  const own = frame.kind === "dots" ? frame.names[line] : `${frame.names[line]}, ${frame.labels[frame.at[line]][k]}`;
  if (!picker) return list.replaceChildren(`${own}: ${interval(frame.kind === "dots" ? frame.x : frame.y, view.lines[line], k)}`);
  listed(list, own, picker, values(chart, picker, line, k));
}

// Picks what the axes of a map say, where there are pickers of their names.
function pickNamed(wanted) {
  const found = pickers.filter((picker) => picker.keys.includes(String(wanted[picker.name])));
  for (const picker of found) picker.select.value = picker.keys.indexOf(String(wanted[picker.name]));
  if (found.length) changed();
}

// What every item has at one place of a line: [option, its axis, its value], the largest first.
function values(chart, picker, line, k) {
  const found = matching(picker).filter((option) => picker.keys[option.value] !== "").map((option) => {
    const view = chart.views[place(chart, { [picker.index]: option.value })], frame = data.frames[view.frame];
    return [option, frame.kind === "dots" ? frame.x : frame.y, view.lines?.[line]?.y[k] ?? null];
  });
  return found.filter(([, , value]) => value !== null).sort((a, b) => b[2] - a[2]);
}

function listed(list, title, picker, found) {
  const heading = document.createElement("div");
  heading.textContent = `${title}: ${found.length} ${picker.name}s, the largest first`;
  const rows = found.map(([option, axis, value]) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = option.textContent;
    button.addEventListener("click", () => {
      picker.select.value = option.value;
      for (const other of list.querySelectorAll("button")) other.classList.toggle("picked", other === button);
      remember();
      drawAll();
    });
    return [axis.flag && (value === 0 || value === 1) ? (value ? "" : "not ") + axis.flag : number(axis, value), button];
  });
  list.replaceChildren(heading, table(rows));
}

// --- downloads

function save(href, name) {
  const link = document.createElement("a");
  link.href = href;
  link.download = name;
  link.click();
}

async function saveTable({ name, packed }) {
  const address = URL.createObjectURL(new Blob([await inflated(packed)], { type: "text/csv" }));
  save(address, name + ".csv");
  setTimeout(() => URL.revokeObjectURL(address), 60000);
}

async function saveImage(index, format) {
  const box = byId("chart-" + index), layout = { ...box.layout, paper_bgcolor: css("--page") };
  const size = { width: box._fullLayout.width, height: box._fullLayout.height, scale: format === "png" ? 2 : 1 };
  save(await Plotly.toImage({ data: box.data, layout, config }, { format, ...size }), `chart-${index + 1}.${format}`);
}

restore();
drawAll();
for (const picker of pickers) {
  picker.select.addEventListener("change", changed);
  for (const filter of picker.filters) filter.addEventListener(filter.tagName === "SELECT" ? "change" : "input", () => { refill(picker); changed(); });
}
for (const button of document.querySelectorAll("[data-table]")) button.addEventListener("click", () => saveTable(data.tables[button.dataset.table]));
for (const button of document.querySelectorAll("[data-image]")) button.addEventListener("click", () => saveImage(+button.dataset.of, button.dataset.image));
addEventListener("hashchange", () => { restore(); drawAll(); });
// A light page that turns dark, and back, is drawn again.
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
