// The page calls only the public API: /v1/models, /v1/encode, /v1/predict, /v1/plan.
import { paintImage, paintGrid, paintText, paintPoints, heatmap, parsePLY } from "./paint.js";
import { snippets } from "./snippets.js";

const $ = (id) => document.getElementById(id);
const el = (tag, cls, text) => {
  const e = document.createElement(tag);
  if (cls) e.className = cls;
  if (text !== undefined) e.textContent = text;
  return e;
};
const state = { input: null, grid: null, latents: null, pooled: null, before: null, attention: new Map(), turn: 0, language: "curl" };

function say(text, bad = false) {
  $("status").textContent = text;
  $("status").className = bad ? "bad" : "";
}

async function call(path, init = {}) {
  const headers = { ...(init.headers || {}) };
  if ($("key").value) headers.Authorization = "Bearer " + $("key").value;
  const began = performance.now();
  const r = await fetch(path, { ...init, headers });
  const body = await r.json();
  if (!r.ok) throw new Error((body.title || "error") + (body.detail ? ": " + body.detail : ""));
  return { body, ms: performance.now() - began };
}

// post sends the current input; options become the query.
function post(route, options) {
  const q = new URLSearchParams({ model: $("model").value, ...options });
  if (state.input.name) q.set("name", state.input.name);
  return call(`${route}?${q}`, { method: "POST", body: state.input.bytes, headers: { "Content-Type": state.input.type } });
}

async function loadModels() {
  try {
    const { body } = await call("/v1/models");
    const chosen = $("model").value;
    $("model").replaceChildren(...body.data.map((m) => {
      const o = el("option", "", m.id + (m.state === "loaded" ? "" : ` (${m.state})`));
      o.value = m.id;
      o.selected = chosen ? m.id === chosen : !!m.default;
      return o;
    }));
    say("");
  } catch (e) {
    say(e.message, true);
  }
}

// run sends the input through plan, encode and predict, and shows each answer.
async function run() {
  if (!state.input) return;
  const turn = ++state.turn;
  say("running …");
  state.attention.clear();
  try {
    const planned = (await post("/v1/plan", {})).body.data[0];
    if (turn !== state.turn) return;
    showCost(planned);
    const { body, ms } = await post("/v1/encode", { output: "latents,pooled,attention", latent: -1, encoding: "float" });
    if (turn !== state.turn) return;
    const item = body.data[0];
    state.grid = item.grid || null;
    state.plan = item.plan;
    state.notes = item.notes || [];
    showLatents(item.latents);
    showTimes(body.timing_ms, ms);
    comparePooled(item.pooled);
    if (item.attention) {
      state.attention.set(-1, item.attention.data);
      $("latent").max = item.latents.shape[0] - 1;
      $("latent").value = -1;
      $("seen").hidden = false;
      $("notes").replaceChildren(...state.notes.map((n) => el("li", "", n)));
      await showAttention();
    }
    await predict(turn);
    say("");
    document.body.dataset.done = String(turn);
  } catch (e) {
    if (turn === state.turn) {
      say(e.message, true);
      document.body.dataset.failed = e.message;
    }
  }
  showCode();
}

async function predict(turn) {
  try {
    const { body } = await post("/v1/predict", { top: 5 });
    if (turn === state.turn) showTasks(body.data[0].prediction);
  } catch (e) {
    $("tasks").replaceChildren(el("p", "quiet", e.message));
  }
}

function bar(name, share, value) {
  const b = el("div", "bar"), track = el("div", "track"), fill = el("div", "fill");
  fill.style.width = Math.max(0, Math.min(1, share)) * 100 + "%";
  track.append(fill);
  const label = el("div", "name", name);
  label.title = name;
  b.append(label, track, el("div", "value", value));
  return b;
}

function showTasks(p) {
  const out = [];
  const classes = (title, list) => {
    if (title) out.push(el("h3", "", title));
    for (const c of list) out.push(bar(c.label || String(c.index), c.score, (c.score * 100).toFixed(1) + " %"));
  };
  if (p.caption) out.push(el("p", "", "“" + p.caption + "”"));
  if (p.text) out.push(el("p", "", p.text));
  if (p.classes) classes("", p.classes);
  for (const h of p.heads || []) classes(h.task.replaceAll("_", " "), h.classes);
  for (const m of p.masks || []) classes("position " + m.position, m.candidates);
  if (p.flow) out.push(el("p", "", `flow ${p.flow.width}×${p.flow.height}: mean (${p.flow.mean_dx.toFixed(2)}, ${p.flow.mean_dy.toFixed(2)}), longest ${p.flow.max_length.toFixed(2)} pixels`));
  if (!out.length) out.push(el("p", "quiet", p.task));
  $("tasks").replaceChildren(...out);
}

const count = (n) => n >= 1e9 ? (n / 1e9).toFixed(2) + " G" : n >= 1e6 ? (n / 1e6).toFixed(1) + " M" : n >= 1e4 ? (n / 1e3).toFixed(1) + " k" : String(n);

function showCost(planned) {
  const p = planned.plan;
  const rows = [["modality", `${p.modality} (${p.media_type || "?"})`], ["rows × channels", `${p.rows} × ${p.row_channels}`],
    ["operations", count(p.flops) + "FLOP"], ["decoded", count(p.decoded_bytes || 0) + "B"]];
  for (const [k, name] of [["width", "width"], ["height", "height"], ["seconds", "seconds"], ["sample_rate", "sample rate"], ["channels", "channels"], ["points", "points"]])
    if (p[k]) rows.push([name, String(Math.round(p[k] * 1000) / 1000)]);
  rows.push(["until done", `about ${planned.estimated_ms.toPrecision(2)} ms${planned.admitted ? "" : ", refused now: the queue is full"}`]);
  $("cost").replaceChildren(...rows.map(([a, b]) => {
    const tr = el("tr");
    tr.append(el("td", "", a), el("td", "", b));
    return tr;
  }));
}

function showTimes(server, total) {
  const known = Object.values(server).reduce((a, b) => a + b, 0);
  const all = { ...server, "network, browser": Math.max(0, total - known) };
  $("times").replaceChildren(...Object.entries(all).map(([k, v]) => bar(k, v / Math.max(total, known), v.toFixed(2) + " ms")));
}

function showLatents(t) {
  const [n, d] = t.shape;
  const rows = Array.from({ length: n }, (_, i) => t.data.slice(i * d, (i + 1) * d));
  state.latents = rows;
  const norms = rows.map((r) => Math.hypot(...r));
  const middle = [...norms].sort((a, b) => a - b)[n >> 1];
  const dead = [], twins = [];
  rows.forEach((r, i) => {
    if (norms[i] <= 1e-3 * middle || norms[i] === 0) return dead.push(i);
    const j = rows.slice(0, i).findIndex((s, j) => r.reduce((a, x, c) => a + x * s[c], 0) > 0.999 * norms[i] * norms[j]);
    if (j >= 0) twins.push(`${i} = ${j}`);
  });
  heatmap($("heat"), rows, [...dead, ...twins.map((s) => parseInt(s))]);
  const f = $("flags");
  f.replaceChildren(`${n} latents × ${d}; norms ${Math.min(...norms).toFixed(2)} … ${Math.max(...norms).toFixed(2)}. `);
  if (dead.length) f.append(el("span", "flag", `dead: ${dead.join(", ")}. `));
  if (twins.length) f.append(el("span", "flag", `duplicates: ${twins.join(", ")}. `));
  if (!dead.length && !twins.length) f.append("none dead, none duplicated.");
}

function comparePooled(p) {
  state.before = state.pooled;
  state.pooled = p ? p.data : null;
  const a = state.before, b = state.pooled;
  if (!a || !b || a.length !== b.length) return;
  const dot = a.reduce((s, x, i) => s + x * b[i], 0);
  $("flags").append(` Cosine with the input before: ${(dot / Math.hypot(...a) / Math.hypot(...b)).toFixed(3)}.`);
}

// showAttention paints the rows that the chosen latent looked at.
async function showAttention() {
  const k = Number($("latent").value);
  $("latent-name").textContent = k < 0 ? "mean" : String(k);
  if (!state.attention.has(k)) {
    const turn = state.turn;
    const { body } = await post("/v1/encode", { output: "attention", latent: k, encoding: "float" });
    if (turn !== state.turn) return;
    state.attention.set(k, body.data[0].attention.data);
  }
  if (Number($("latent").value) !== k) return;
  const a = state.attention.get(k), view = $("view"), kind = state.plan.modality, grid = state.grid;
  if (kind === "image" && grid?.length === 2 && state.input.bitmap) paintImage(view, state.input.bitmap, a, grid, state.notes);
  else if (kind === "text") paintText(view, state.input.bytes, a, state.notes);
  else if (kind === "pointcloud" && state.input.points) paintPoints(view, state.input.points, a);
  else paintGrid(view, a, grid);
}

function showCode() {
  const all = snippets($("model").value, state.input, location.origin, state.plan?.modality);
  $("languages").replaceChildren(...Object.keys(all).map((name) => {
    const b = el("button", name === state.language ? "on" : "", name);
    b.onclick = () => { state.language = name; showCode(); };
    return b;
  }));
  $("code").textContent = all[state.language];
}

async function takeFile(file) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  const type = file.type && !/^(model|application\/octet)/.test(file.type) ? file.type : "application/octet-stream";
  state.input = { bytes, name: file.name, type, bitmap: null, points: null };
  if (type.startsWith("image/")) state.input.bitmap = await createImageBitmap(file).catch(() => null);
  state.input.points = parsePLY(bytes);
  await run();
}

async function takeText() {
  const t = $("text").value;
  if (!t) return;
  state.input = { bytes: new TextEncoder().encode(t), name: "", type: "text/plain", text: t };
  await run();
}

$("run").onclick = takeText;
$("text").onkeydown = (e) => { if (e.key === "Enter" && (e.ctrlKey || e.metaKey)) takeText(); };
$("file").onchange = (e) => { if (e.target.files[0]) takeFile(e.target.files[0]); };
$("latent").oninput = () => showAttention().catch((e) => say(e.message, true));
$("model").onchange = run;
$("key").onchange = loadModels;
for (const name of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (e) => {
    e.preventDefault();
    $("drop").classList.toggle("over", name === "dragover");
    if (name === "drop" && e.dataTransfer.files[0]) takeFile(e.dataTransfer.files[0]);
  });
}
await loadModels();
showCode();
// A text in the address runs at once: /ui/#hello
if (location.hash.length > 1) {
  $("text").value = decodeURIComponent(location.hash.slice(1));
  await takeText();
}
