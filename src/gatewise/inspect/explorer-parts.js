// Small parts of the page: words, colours, bars, legends.

const visible = (token) => ({" ": "␣", "\n": "↵", "\t": "⇥"})[token] ?? token;
const letters = data.text && tokens.every((token) => [...token].length <= 1);
const percent = (share) => {  // a share of nearly nothing or all is not rounded to it
  if (share > 0 && share < 0.0005) return "< 0.1 %";
  if (share > 0.9995 && share < 1) return "> 99.9 %";
  return `${(100 * share).toFixed((share > 0 && share < 0.0095) || (share > 0.9905 && share < 1) ? 1 : 0)} %`;
};
const clamp = (v, low, high) => Math.max(low, Math.min(high, v));
const $ = (selector, root = document) => root.querySelector(selector);
const css = (name) => {  // a colour of the style sheet, as the theme has it now
  const probe = document.body.appendChild(document.createElement("i"));
  probe.style.color = `var(--${name})`;
  const colour = getComputedStyle(probe).color;
  probe.remove();
  return colour;
};
function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}
function replace(parent, children) { parent.replaceChildren(...children); }
const gradient = (q) => `linear-gradient(90deg, ${PALETTES[state.theme][q.kind === "signed" ? "signed" : "gate"]
  .filter((_, i) => i % 15 === 0).map((c) => `rgb(${c})`).join(", ")})`;
const ends = (q) => {
  const size = `${+q.limit.toPrecision(2)}`;
  return q.beyond ? [q.kind === "signed" ? `≤ −${size}` : "0", `≥ ${size}`] : [q.kind === "signed" ? `−${size}` : "0", size];
};
const legend = (q) => [ends(q)[0], element("i", {className: "ramp", style: `background: ${gradient(q)}`}), ends(q)[1]];

function label(q) {
  return [element("div", {className: "names"}, element("strong", {textContent: q.name}), ` ${q.title}`),
    element("div", {className: "scale"}, ...legend(q)), element("small", {textContent: q.about})];
}

// W_ir h_{t-1} with its indices below the line.
function symbol(text) {
  const pieces = text.replaceAll("-", "−").split(/_(\{[^}]*\}|\w+)/);
  return element("span", {className: "sign"}, ...pieces.map((piece, i) =>
    i % 2 ? element("sub", {textContent: piece.replace(/[{}]/g, "")}) : piece));
}

function bar(name, part, text, negative = false) {
  const fill = element("i", {className: negative ? "bar negative" : "bar"});
  fill.style.width = `${(100 * part).toFixed(1)}%`;
  return element("tr", {}, element("th", {scope: "row"}, ...name), element("td", {}, fill, element("span", {textContent: text})));
}

function inWords(q, v) {
  if (!Number.isFinite(v)) return "";
  if (q.opens && q.shuts) return `takes ${percent(v)} of ${q.opens} and ${percent(1 - v)} of ${q.shuts}.`;
  if (q.opens) return `lets through ${percent(v)} of ${q.opens}.`;
  if (q.shuts) return `holds back ${percent(v)} of ${q.shuts}.`;
  return `is at ${percent(v)}.`;
}

const quoted = (t) => `${letters ? "character" : "step"} ${t}, ${visible(tokens[t])}:`;
const liveliest = (track) => {  // the unit whose output varies most
  const spread = Array.from({length: track.units}, (_, unit) => {
    const trace = track.output.values.trace(unit).filter(Number.isFinite), mean = trace.reduce((a, b) => a + b, 0) / trace.length;
    return trace.reduce((a, b) => a + (b - mean) ** 2, 0);
  });
  return Math.max(0, spread.indexOf(Math.max(...spread)));
};
const SURPRISE = {kind: "gate", limit: 8};
const surprise = (track) => tokens.map((_, t) => {  // of the character that came, in bits
  const p = t ? track.prediction.next_p[t - 1] : null;
  return p === null ? null : shade(state.theme, SURPRISE, -Math.log2(p));
});
