// Painting: attention over what the model saw, and latents as a heat map.

const canvas = (w, h, cls) => {
  const c = document.createElement("canvas");
  c.width = w;
  c.height = h;
  if (cls) c.className = cls;
  return c;
};

// warm maps 0..1 to a colour: dark blue, purple, orange, pale yellow.
const stops = [[13, 8, 60], [120, 28, 110], [237, 105, 37], [252, 255, 164]];
function warm(t) {
  t = Math.max(0, Math.min(1, t)) * (stops.length - 1);
  const i = Math.min(stops.length - 2, Math.floor(t)), f = t - i;
  return stops[i].map((v, k) => Math.round(v + f * (stops[i + 1][k] - v)));
}

function scaled(a) {
  let low = Infinity, high = -Infinity;
  for (const v of a) { low = Math.min(low, v); high = Math.max(high, v); }
  return Array.from(a, (v) => (high > low ? (v - low) / (high - low) : 0.5));
}

// gridCanvas draws values of a height×width grid, one pixel each.
function gridCanvas(values, h, w, alpha) {
  const c = canvas(w, h), g = c.getContext("2d"), img = g.createImageData(w, h);
  values.forEach((v, i) => img.data.set([...warm(v), alpha ? Math.round(255 * alpha(v)) : 255], 4 * i));
  g.putImageData(img, 0, 0);
  return c;
}

// paintImage shows the part of the picture that the model saw, and the attention over it.
export function paintImage(view, bitmap, attention, [h, w], notes) {
  let [x, y, cw, ch] = [0, 0, bitmap.width, bitmap.height];
  for (const n of notes) {
    const m = n.match(/to the middle (\d+)×(\d+)/);
    if (m) {
      [cw, ch] = [+m[1], +m[2]];
      [x, y] = [(bitmap.width - cw) / 2, (bitmap.height - ch) / 2];
    }
  }
  const c = canvas(512, Math.max(1, Math.round((512 * ch) / cw)), "photo"), g = c.getContext("2d");
  g.drawImage(bitmap, x, y, cw, ch, 0, 0, c.width, c.height);
  g.imageSmoothingEnabled = true;
  g.drawImage(gridCanvas(scaled(attention), h, w, (v) => 0.15 + 0.6 * v), 0, 0, c.width, c.height);
  view.replaceChildren(c);
}

// paintGrid shows attention over rows that have a grid (time×mel, depth×height×width) or none.
export function paintGrid(view, attention, grid) {
  const v = scaled(attention);
  if (grid?.length === 2 && grid[0] * grid[1] === v.length) {
    const [t, f] = grid; // time runs right, frequency up
    const turned = [];
    for (let j = f - 1; j >= 0; j--) for (let i = 0; i < t; i++) turned.push(v[i * f + j]);
    const c = gridCanvas(turned, f, t);
    c.style.height = "160px";
    view.replaceChildren(c);
    return;
  }
  const w = Math.min(v.length, 256), h = Math.ceil(v.length / w);
  while (v.length < w * h) v.push(0);
  const c = gridCanvas(v, h, w);
  c.style.height = Math.max(24, h * 6) + "px";
  view.replaceChildren(c);
}

// paintText shows each character on the colour of its bytes' attention.
export function paintText(view, bytes, attention, notes) {
  let rows = attention.length;
  for (const n of notes) {
    const m = n.match(/of (\d+) rows/);
    if (m) rows = +m[1];
  }
  const first = rows > bytes.length ? 1 : 0; // rows begin with a [CLS] where there are marks
  const box = document.createElement("div");
  box.className = "letters";
  const decoder = new TextDecoder();
  const top = Math.max(...attention);
  for (let i = 0; i < bytes.length;) {
    let n = 1;
    while (i + n < bytes.length && (bytes[i + n] & 0xc0) === 0x80) n++;
    let a = 0;
    for (let k = 0; k < n; k++) a = Math.max(a, attention[first + i + k] ?? 0);
    const s = document.createElement("span");
    s.textContent = decoder.decode(bytes.subarray(i, i + n));
    if (first + i < attention.length) s.style.backgroundColor = `rgb(194 65 12 / ${(0.85 * a) / top})`;
    else s.style.opacity = 0.3;
    box.append(s);
    i += n;
  }
  view.replaceChildren(box);
}

// heatmap draws latents, one row each; flagged rows get a mark at the left.
export function heatmap(c, rows, flagged) {
  const d = rows[0].length, mark = Math.max(2, Math.round(d / 64));
  c.width = d + mark;
  c.height = rows.length;
  c.style.height = Math.max(120, Math.min(360, rows.length * 8)) + "px";
  const g = c.getContext("2d"), img = g.createImageData(c.width, c.height);
  const sizes = rows.flat().map(Math.abs).sort((a, b) => a - b);
  const top = sizes[Math.floor(0.99 * (sizes.length - 1))] || 1;
  rows.forEach((r, i) => {
    const row = 4 * i * c.width;
    for (let j = 0; j < mark; j++) img.data.set(flagged.includes(i) ? [194, 65, 12, 255] : [0, 0, 0, 0], row + 4 * j);
    r.forEach((v, j) => {
      const t = Math.max(-1, Math.min(1, v / top)), fade = Math.round(255 * (1 - Math.abs(t)));
      img.data.set(t < 0 ? [fade, fade, 255, 255] : [255, fade, fade, 255], row + 4 * (j + mark));
    });
  });
  g.putImageData(img, 0, 0);
}

// parsePLY reads the x, y, z of a PLY file; null for anything else.
export function parsePLY(bytes) {
  const head = new TextDecoder("latin1").decode(bytes.subarray(0, 8192));
  const end = head.indexOf("end_header\n");
  if (!head.startsWith("ply") || end < 0) return null;
  const sizes = { char: 1, uchar: 1, int8: 1, uint8: 1, short: 2, ushort: 2, int16: 2, uint16: 2, int: 4, uint: 4, int32: 4, uint32: 4, float: 4, float32: 4, double: 8, float64: 8 };
  let count = 0, element = "", size = 0, format = "";
  const at = {};
  let column = 0;
  for (const line of head.slice(0, end).split("\n")) {
    const w = line.trim().split(/\s+/);
    if (w[0] === "format") format = w[1];
    if (w[0] === "element") { if (element === "" && w[1] !== "vertex") return null; element = w[1]; if (element === "vertex") count = +w[2]; }
    if (w[0] === "property" && element === "vertex") { at[w[2]] = { offset: size, column: column++, type: w[1] }; size += sizes[w[1]] || NaN; }
  }
  if (!at.x || !at.y || !at.z || !(count > 0 && count < 5e6)) return null;
  const out = new Float32Array(3 * count), body = bytes.subarray(end + 11);
  if (format === "ascii") {
    const lines = new TextDecoder().decode(body).split("\n");
    for (let i = 0; i < count && i < lines.length; i++) {
      const w = lines[i].trim().split(/\s+/);
      ["x", "y", "z"].forEach((n, k) => { out[3 * i + k] = +w[at[n].column]; });
    }
    return out;
  }
  const little = format === "binary_little_endian", v = new DataView(body.buffer, body.byteOffset, body.byteLength);
  if (!(size * count <= body.length)) return null;
  for (let i = 0; i < count; i++)
    ["x", "y", "z"].forEach((n, k) => {
      const o = i * size + at[n].offset;
      out[3 * i + k] = sizes[at[n].type] === 8 ? v.getFloat64(o, little) : v.getFloat32(o, little);
    });
  return out;
}

// paintPoints shows points, coloured by attention where every point is a row; drag to turn.
export function paintPoints(view, points, attention) {
  const n = points.length / 3, c = canvas(640, 400), gl = c.getContext("webgl", { preserveDrawingBuffer: true });
  view.replaceChildren(c);
  if (!gl) return paintGrid(view, attention, null);
  const low = [Infinity, Infinity, Infinity], high = low.map((v) => -v);
  points.forEach((v, i) => { if (isFinite(v)) { low[i % 3] = Math.min(low[i % 3], v); high[i % 3] = Math.max(high[i % 3], v); } });
  const span = Math.max(...high.map((v, k) => v - low[k])) || 1;
  const data = new Float32Array(6 * n), v = attention.length === n ? scaled(attention) : null;
  for (let i = 0; i < n; i++) {
    for (let k = 0; k < 3; k++) data[6 * i + k] = (points[3 * i + k] - (low[k] + high[k]) / 2) / span;
    data.set((v ? warm(0.15 + 0.85 * v[i]) : [120, 140, 200]).map((x) => x / 255), 6 * i + 3);
  }
  const shader = (type, text) => { const s = gl.createShader(type); gl.shaderSource(s, text); gl.compileShader(s); return s; };
  const p = gl.createProgram();
  gl.attachShader(p, shader(gl.VERTEX_SHADER, `attribute vec3 at; attribute vec3 colour; uniform vec2 turn; varying vec3 c; void main() {
    float s = sin(turn.x), k = cos(turn.x), u = sin(turn.y), w = cos(turn.y);
    vec3 a = vec3(k * at.x + s * at.z, at.y, k * at.z - s * at.x);
    a = vec3(a.x, w * a.y - u * a.z, w * a.z + u * a.y);
    gl_Position = vec4(a.x * 1.0, a.y * 1.6, a.z * 0.5, 1.0); gl_PointSize = ${n < 200 ? "12.0" : n < 5000 ? "4.0" : "2.0"}; c = colour; }`));
  gl.attachShader(p, shader(gl.FRAGMENT_SHADER, "precision mediump float; varying vec3 c; void main() { gl_FragColor = vec4(c, 1.0); }"));
  gl.linkProgram(p);
  gl.useProgram(p);
  gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
  gl.bufferData(gl.ARRAY_BUFFER, data, gl.STATIC_DRAW);
  ["at", "colour"].forEach((name, i) => {
    const l = gl.getAttribLocation(p, name);
    gl.enableVertexAttribArray(l);
    gl.vertexAttribPointer(l, 3, gl.FLOAT, false, 24, 12 * i);
  });
  gl.enable(gl.DEPTH_TEST);
  const turn = [0.6, 0.4];
  const draw = () => {
    gl.clearColor(0.07, 0.07, 0.09, 1);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    gl.uniform2fv(gl.getUniformLocation(p, "turn"), turn);
    gl.drawArrays(gl.POINTS, 0, n);
  };
  c.onpointermove = (e) => {
    if (!e.buttons) return;
    turn[0] += e.movementX / 120;
    turn[1] += e.movementY / 120;
    draw();
  };
  draw();
  if (!v) {
    const rows = document.createElement("div");
    view.append(rows);
    paintGrid(rows, attention, null); // the rows are a sample of the points
  }
}
