"use strict";
// What the page holds, decoded; and all that is computed from it: colours, correlations, orders. No drawing.

const data = JSON.parse(document.getElementById("data").textContent);
const tokens = data.tokens;
const T = tokens.length;
const MISSING = -32768;

function decoded(base64) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = text.charCodeAt(i);
  return new Int16Array(bytes.buffer);
}

// One named value of a layer, (T, H): whole numbers that are the value times 10^decimals.
class Values {
  constructor(packed, others) {
    this.decimals = packed.decimals;
    this.scale = 10 ** -packed.decimals;
    if (packed.of) {  // another's values, a step later or earlier, and one row that it does not have
      const other = others[packed.of], first = decoded(packed.data);
      this.units = other.units;
      this.whole = new Int16Array(other.whole.length + first.length);
      this.whole.set(other.whole);
      this.whole.set(first, other.whole.length);
      this.rows = Int16Array.from({length: T}, (_, t) => t - packed.shift < 0 ? T : t - packed.shift);
    } else {
      this.whole = decoded(packed.data);
      this.rows = packed.rows === null ? null : decoded(packed.rows);
      this.units = this.whole.length / (this.rows ? Math.max(...this.rows) + 1 : T);
    }
  }
  index(t, unit) { return (this.rows ? this.rows[t] : t) * this.units + unit; }
  at(t, unit) {
    const whole = this.whole[this.index(t, unit)];
    return whole === MISSING ? NaN : whole * this.scale;
  }
  shown(t, unit) { return written(this.at(t, unit), Math.max(0, this.decimals)); }
  trace(unit) { return Float64Array.from({length: T}, (_, t) => this.at(t, unit)); }
  most() { return this.whole.reduce((most, v) => v === MISSING ? most : Math.max(most, Math.abs(v)), 0) * this.scale; }
  // A size for the colours: the largest, unless a few giants would leave the rest pale.
  usual() {
    const sizes = this.whole.filter((v) => v !== MISSING).map(Math.abs).sort();
    const at = (share) => (sizes[Math.floor(share * (sizes.length - 1))] ?? 0) * this.scale;
    return Math.min(at(1), Math.max(4 * at(0.5), at(0.9)));
  }
}

function written(value, decimals) {
  return Number.isFinite(value) ? value.toFixed(decimals).replace(/^-(?=[0.]*$)/, "").replace("-", "−") : "—";
}

class Track {
  constructor(raw) {
    Object.assign(this, {title: raw.title, cell: raw.cell, lines: raw.lines, constants: raw.constants});
    this.values = {};
    for (const [key, packed] of Object.entries(raw.values)) this.values[key] = new Values(packed, this.values);
    this.quantities = raw.quantities;
    for (const q of this.quantities) {
      q.values = this.values[q.key];
      const usual = q.kind === "gate" ? 1 : q.values.usual(), most = q.values.most();
      q.limit = most <= 1 && usual > 0.3 ? 1 : Math.max(usual, 1e-9);  // within ±1 it gets the whole of that
      q.beyond = most > q.limit;
    }
    this.output = this.quantities[this.quantities.length - 1];
    this.units = this.output.values.units;
    this.prediction = raw.prediction === null ? null : data.predictions[raw.prediction];
    this.similar = raw.similar;
    this.gates = this.quantities.filter((q) => q.kind === "gate");
  }

  // How far each unit's gates are open or shut for good: the share of steps within 0.1 of 0 or 1.
  saturation() {
    this.saturated ??= Float64Array.from({length: this.units}, (_, unit) => {
      let count = 0;
      for (const q of this.gates) for (let t = 0; t < T; t++) {
        const v = q.values.at(t, unit);
        if (v < 0.1 || v > 0.9) count++;
      }
      return this.gates.length ? count / (T * this.gates.length) : 0;
    });
    return this.saturated;
  }

  orders() {
    const names = {similar: "alike side by side", number: "by number"};
    for (const name of Object.keys(this.constants)) names[name] = `by ${name}`;
    if (this.gates.length) names.saturation = "by saturation";
    names.pattern = "by the pattern";
    return names;
  }

  order(name, marks) {
    const units = Array.from({length: this.units}, (_, i) => i);
    const by = (key) => units.sort((a, b) => (key[b] ?? -Infinity) - (key[a] ?? -Infinity) || a - b);
    if (name === "similar") return this.similar;
    if (name === "saturation") return by(this.saturation());
    if (name === "pattern" && marks) return by(correlations(this.output.values, marks));
    return name in this.constants ? by(this.constants[name]) : units;
  }
}

// The correlation over time of each unit's value with the marks (1 within a match, else 0): (H,).
function correlations(values, marks) {
  const units = values.units;
  const sum = new Float64Array(units), square = new Float64Array(units), product = new Float64Array(units);
  const count = new Float64Array(units), hits = new Float64Array(units);
  for (let t = 0; t < T; t++) {
    for (let unit = 0, i = values.index(t, 0); unit < units; unit++, i++) {
      const v = values.whole[i];
      if (v === MISSING) continue;
      count[unit]++; sum[unit] += v; square[unit] += v * v; hits[unit] += marks[t];
      if (marks[t]) product[unit] += v;
    }
  }
  return sum.map((s, u) => {
    const n = count[u], p = hits[u];
    const spread = (n * square[u] - s * s) * (n * p - p * p);
    return spread > 1e-9 * n * n ? (n * product[u] - s * p) / Math.sqrt(spread) : 0;
  });
}

// Where a regular expression matches the text: 1 for each character within a match. Throws on a bad expression.
function marksOf(source) {
  const text = tokens.join("");
  const marks = new Uint8Array(T);
  const owner = [];  // the token of each UTF-16 unit of the text
  tokens.forEach((token, t) => { for (let i = 0; i < token.length; i++) owner.push(t); });
  let matches = 0;
  for (const match of text.matchAll(new RegExp(source, "gmu"))) {
    if (match[0]) matches++;
    for (let i = match.index; i < match.index + match[0].length; i++) marks[owner[i]] = 1;
  }
  return {marks, matches, characters: marks.reduce((a, b) => a + b, 0)};
}

// Units of all quantities of a track, those first that follow the marks best, or run against them.
function followers(track, marks, most) {
  const best = new Map();
  for (const q of track.quantities) correlations(q.values, marks).forEach((r, unit) => {
    if (Math.abs(r) > Math.abs(best.get(unit)?.r ?? 0)) best.set(unit, {unit, r, q});
  });
  return [...best.values()].sort((a, b) => Math.abs(b.r) - Math.abs(a.r)).slice(0, most);
}

// --- colours ------------------------------------------------------------------------------------
// Gates run from shut to open; signed values from brown through the page's ground to teal, which people who
// confuse red and green tell apart, too.
const STOPS = {
  light: {
    gate: ["#ffffff", "#d3e4f3", "#6fb0d8", "#2a72b0", "#08306b"],
    signed: ["#7a3a05", "#c77d2e", "#efd9b4", "#fbfbf9", "#b5dfd8", "#3a9c90", "#04534a"],
  },
  dark: {
    gate: ["#10151d", "#17324f", "#2468a2", "#66b2e4", "#eaf6ff"],
    signed: ["#f2b573", "#bf7028", "#5b3512", "#12161c", "#0d443e", "#1f9486", "#74dcc8"],
  },
};
const SHADES = 256;

function shades(stops) {
  const rgb = stops.map((hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16)));
  return Array.from({length: SHADES}, (_, i) => {
    const at = i / (SHADES - 1) * (stops.length - 1), low = Math.min(Math.floor(at), stops.length - 2);
    return rgb[low].map((v, k) => Math.round(v + (rgb[low + 1][k] - v) * (at - low)));
  });
}

const PALETTES = Object.fromEntries(Object.entries(STOPS).map(([theme, kinds]) => [theme,
  Object.fromEntries(Object.entries(kinds).map(([kind, stops]) => [kind, shades(stops)]))]));

function shade(theme, q, value) {  // [r, g, b] of a value, or null
  if (!Number.isFinite(value)) return null;
  const signed = q.kind === "signed";
  const part = signed ? (value / q.limit + 1) / 2 : value / q.limit;
  return PALETTES[theme][signed ? "signed" : "gate"][Math.max(0, Math.min(SHADES - 1, Math.round(part * (SHADES - 1))))];
}

// All of a quantity as (H, T) pixels, the first unit of the order in the last row, since plots count from below.
function pixels(theme, q, order) {
  const {whole, units, scale} = q.values, signed = q.kind === "signed";
  const colours = Uint32Array.from(PALETTES[theme][signed ? "signed" : "gate"],
    ([r, g, b]) => 0xff000000 | b << 16 | g << 8 | r);
  const per = (SHADES - 1) * scale / (signed ? 2 * q.limit : q.limit), zero = signed ? (SHADES - 1) / 2 : 0;
  const image = new Uint32Array(units * T);
  for (let t = 0; t < T; t++) {
    const start = q.values.index(t, 0);
    for (let place = 0; place < units; place++) {
      const v = whole[start + order[place]];
      if (v !== MISSING) {
        image[(units - 1 - place) * T + t] = colours[Math.max(0, Math.min(SHADES - 1, Math.round(v * per + zero)))];
      }
    }
  }
  return image;
}
