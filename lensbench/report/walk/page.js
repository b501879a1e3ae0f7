// --- what is picked, and who shows it

const data = JSON.parse(byId("data").textContent);
const tables = {}, state = {};
let words, order, current;

const last = data.tokens.length - 1;
const START = { position: last, block: Math.floor(data.architecture.n_layers / 2), head: 0, layer: data.architecture.n_layers, pair: 0, temperature: 1, top_p: 0.9, seed: 0, asked: null, above: 0 };
const MOST = { position: last, block: data.architecture.n_layers - 1, head: data.architecture.n_heads - 1, layer: data.architecture.n_layers, pair: 4096, temperature: 2, top_p: 1, seed: 4294967295, asked: data.architecture.d_vocab - 1, above: 1 };
const LEAST = { temperature: 0.05, top_p: 0.05 };
const REAL = ["temperature", "top_p"];

// Which drawings look at what.
const SHOWS = {
  position: ["pieces", "embedding", "positions", "attention", "writes", "stream", "lens"],
  block: ["positions", "attention", "writes", "stream"],
  head: ["attention"],
  layer: ["lens"],
  pair: ["positions"],
  temperature: ["logits", "probabilities", "draw", "path"],
  top_p: ["logits", "probabilities", "draw", "path"],
  seed: ["logits", "draw", "path"],
  asked: ["logits", "path"],
  above: ["path"],
};

const tokenText = (position) => data.tokens[position].text;

// A row of a table by the first of its axes, or one number by all of them.
function row(name, ...at) {
  const { shape, at: values } = tables[name], size = shape.slice(at.length).reduce((a, b) => a * b, 1);
  const number = at.reduce((sum, place, axis) => sum * shape[axis] + place, 0);
  return values.subarray(number * size, (number + 1) * size);
}
const norm = (name, ...at) => row(name, ...at)[0];

async function unpacked({ shape, kind, packed }) {
  const bytes = await inflated(packed);
  return { shape, at: kind === "i" ? new Int32Array(bytes) : new Float32Array(bytes) };
}

async function unpackAll() {
  words = JSON.parse(new TextDecoder().decode(await inflated(data.vocabulary)));
  for (const [name, table] of Object.entries(data.tables)) tables[name] = table && await unpacked(table);
  for (const turn of data.rotations) for (const name of ["angles", "per_token"]) turn[name] = await unpacked(turn[name]);
  order = ordered(tables.logits.at);
}

// What scrolls by itself stays where it was, and what is picked in it is in sight.
function draw(name) {
  const box = byId("drawing-" + name), scrolling = () => [...box.querySelectorAll(".wide, .tall")];
  const before = scrolling().map(({ scrollLeft, scrollTop }) => [scrollLeft, scrollTop]);
  box.replaceChildren();
  drawings[name](box);
  scrolling().forEach((part, i) => part.scrollTo(...(before[i] ?? [0, 0])));
  const wide = box.querySelector(".wide"), cell = wide?.querySelector(".grid [aria-pressed=true]")?.parentElement;
  if (cell && (cell.offsetLeft < wide.scrollLeft + 60 || cell.offsetLeft + cell.offsetWidth > wide.scrollLeft + wide.clientWidth)) wide.scrollLeft = cell.offsetLeft - wide.clientWidth / 2;
}

function controls() {
  byId("block").value = state.block;
  byId("block-said").textContent = state.block;
  byId("head").value = String(state.head);
  for (const [id, name] of [["temperature", "temperature"], ["top-p", "top_p"]]) {
    byId(id).value = state[name];
    byId(id + "-said").textContent = state[name].toFixed(2);
  }
  byId("seed").value = state.seed;
  byId("above").checked = !!state.above;
  for (const button of document.querySelectorAll("[data-position]")) button.setAttribute("aria-pressed", String(+button.dataset.position === state.position));
}

// Changes what is picked, and draws again what shows it.
function set(changes) {
  const changed = Object.keys(changes).filter((key) => changes[key] !== state[key]);
  Object.assign(state, changes);
  if (!current || changed.some((key) => REAL.includes(key))) current = distribution(tables.logits.at, order, state.temperature, state.top_p);
  controls();
  for (const name of Object.keys(drawings)) if (changed.some((key) => SHOWS[key].includes(name))) keepFocus(() => draw(name));
  const told = Object.entries(state).filter(([key, value]) => key in START && value !== START[key]);
  history.replaceState(null, "", told.length ? "#" + new URLSearchParams(told) : location.pathname + location.search);
}

// A button that is drawn again keeps the focus: its place among the buttons is the same.
function keepFocus(action) {
  const box = document.activeElement?.closest(".drawing"), place = box ? [...box.querySelectorAll("button")].indexOf(document.activeElement) : -1;
  action();
  if (place >= 0 && document.activeElement === document.body) box.querySelectorAll("button")[place]?.focus({ preventScroll: true });
}

// What a link says is picked, as far as it is on this page.
function restored() {
  const told = new URLSearchParams(location.hash.slice(1)), found = { ...START };
  for (const [key, most] of Object.entries(MOST)) {
    const text = told.get(key), value = Number(text);
    if (text === null || text === "" || !(value >= (LEAST[key] ?? 0) && value <= most)) continue;
    if (REAL.includes(key) || Number.isInteger(value)) found[key] = value;
  }
  return found;
}

function listen() {
  for (const button of document.querySelectorAll("[data-position]")) button.addEventListener("click", () => set({ position: +button.dataset.position }));
  byId("block").addEventListener("input", (event) => set({ block: +event.target.value }));
  byId("head").addEventListener("change", (event) => set({ head: +event.target.value }));
  byId("temperature").addEventListener("input", (event) => set({ temperature: +event.target.value, asked: null }));
  byId("top-p").addEventListener("input", (event) => set({ top_p: +event.target.value, asked: null }));
  byId("again").addEventListener("click", () => set({ seed: (state.seed + 1) % 4294967296, asked: null }));
  byId("seed").addEventListener("change", (event) => set({ seed: Math.min(Math.max(Math.floor(+event.target.value) || 0, 0), 4294967295), asked: null }));
  byId("asked").addEventListener("change", (event) => set({ asked: event.target.value === "" ? null : +event.target.value }));
  byId("above").addEventListener("change", (event) => set({ above: +event.target.checked }));
  addEventListener("hashchange", () => { if (location.hash.includes("=")) set(restored()); });
  const again = () => Object.keys(drawings).forEach(draw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
  let width = document.documentElement.clientWidth;
  addEventListener("resize", () => {
    if (document.documentElement.clientWidth === width) return;
    width = document.documentElement.clientWidth;
    again();
  });
}

unpackAll().then(() => {
  listen();
  const anchor = location.hash;
  set(restored());
  if (anchor && !anchor.includes("=")) byId(anchor.slice(1))?.scrollIntoView();
  byId("waiting").remove();
  document.body.dataset.ready = "yes";
}, () => { byId("waiting").textContent = "This browser cannot unpack the numbers of this page. Open it in a newer one."; });
