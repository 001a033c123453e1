// The page: one state, and one or two sides that show it. Drawing is Bokeh's; the rest is HTML.

const state = {t: 0, hold: false, theme: "light", marks: null, active: 0};
const sides = [];
const visible = (token) => ({" ": "␣", "\n": "↵", "\t": "⇥"})[token] ?? token;
const letters = data.text && tokens.every((token) => [...token].length <= 1);
const percent = (share) => `${(100 * share).toFixed((share > 0 && share < 0.0095) || (share > 0.9905 && share < 1) ? 1 : 0)} %`;
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
const GAP = 34;  // right of every plot, where the trace has its axis, so that all columns lie under each other
const ndarray = Bokeh.require("core/util/ndarray").ndarray;

class Side {
  constructor(number) {
    this.number = number;
    this.root = $("#side").content.firstElementChild.cloneNode(true);
    this.root.setAttribute("aria-label", number ? "Right side" : "Left side");
    this.track = tracks[Math.min(number, tracks.length - 1)];
    this.orderName = "similar";
    this.fewer = false;
    this.closed = new Set(this.track.quantities.filter((q) => !q.shown).map((q) => q.name));
    this.colour = this.track.output;
    const choose = $(".track", this.root);
    replace(choose, tracks.map((track, i) => new Option(track.title, i, false, track === this.track)));
    choose.onchange = () => this.take(tracks[choose.value]);
    $(".which", this.root).hidden = tracks.length < 2;
    $(".order", this.root).onchange = (event) => this.sort(event.target.value);
    $(".colour", this.root).onchange = (event) => {
      this.colour = this.track.quantities.find((q) => q.name === event.target.value) ?? null;
      this.tint();
    };
    $(".in", this.root).onclick = () => zoom(0.5);
    $(".out", this.root).onclick = () => zoom(2);
    $(".whole", this.root).onclick = () => zoom(Infinity);
    $(".rows", this.root).onclick = () => this.zoomRows(!this.fewer);
    this.root.addEventListener("pointerenter", () => activate(number));
    this.root.addEventListener("focusin", () => activate(number));
    this.text();
  }

  // --- the text, as a person reads it
  text() {
    const panel = $(".text", this.root);
    panel.classList.toggle("words", !letters);
    this.spans = tokens.map((token, t) => {
      const span = element("span", {textContent: token === "\n" ? "↵" : token});
      span.dataset.t = t;
      return span;
    });
    this.now = element("i", {className: "now"});  // a box of its own: 1000 characters are not painted anew for it
    replace(panel, [this.now, ...this.spans]);
    const at = (event) => event.target.dataset?.t;
    panel.onpointermove = (event) => { if (at(event) !== undefined && !state.hold) go(+at(event)); };
    panel.onclick = (event) => { if (at(event) !== undefined) { go(+at(event)); hold(!state.hold); } };
  }

  tint() {
    const q = this.colour, theme = state.theme;
    const colours = q ? this.spans.map((_, t) => shade(theme, q, q.values.at(t, this.unit))) : surprise(this.track);
    this.spans.forEach((span, t) => {
      const c = colours[t];
      span.style.backgroundColor = c ? `rgb(${c})` : "";
      // Black or white, whichever has more contrast on it.
      span.style.color = c ? (0.299 * c[0] + 0.587 * c[1] + 0.114 * c[2] > 140 ? "#111" : "#fff") : "";
    });
    $(".of", this.root).textContent = q ? `of unit ${this.unit}` : "";
    replace($(".scale", this.root), q ? legend(q) : ["expected", element("i", {className: "ramp", style:
      `background: ${gradient(SURPRISE)}`}), "surprise"]);
  }

  // --- choices
  take(track) {
    this.track = track;
    this.unit = Math.min(this.unit ?? liveliest(track), track.units - 1);
    this.colour = track.output;
    const prediction = track.prediction;
    replace($(".order", this.root), Object.entries(track.orders()).map(([name, label]) => new Option(label, name)));
    replace($(".colour", this.root), [...track.quantities.map((q) => new Option(q.name, q.name, false, q === this.colour)),
      ...(prediction ? [new Option("surprise", "")] : [])]);
    replace($(".maps-shown", this.root), [$("legend", this.root), ...track.quantities.map((q) => {
      const box = element("input", {type: "checkbox", checked: !this.closed.has(q.name)});
      box.onchange = () => {
        box.checked ? this.closed.delete(q.name) : this.closed.add(q.name);
        this.plot();
      };
      return element("label", {title: q.title}, box, q.name);
    })]);
    $(".next", this.root).hidden = !prediction;
    $(".equations", this.root).hidden = !track.lines.length;
    this.references = [];
    replace($(".lines", this.root), track.lines.map((line) => element("p", {}, ...line.map((part) => {
      if (typeof part === "string") return element("span", {className: "sign", textContent: part.replaceAll("-", "−")});
      const number = element("b");
      this.references.push([number, part[1], part[2]]);
      return element("span", {className: "value"}, symbol(part[0]), number);
    }))));
    this.sort(this.orderName in track.orders() ? this.orderName : "similar", false);
    return this.plot();
  }

  sort(name, draw = true) {
    this.orderName = name;
    $(".order", this.root).value = name;
    this.order = this.track.order(name, state.marks);
    this.place = new Int32Array(this.track.units);
    this.order.forEach((unit, place) => { this.place[unit] = place; });
    if (draw) { this.paint(); soon(); }
  }

  // --- plots
  async plot() {
    this.document?.clear();
    const maps = this.track.quantities.filter((q) => !this.closed.has(q.name));
    const height = clamp(Math.floor((innerHeight - 510) / Math.max(1, maps.length)), 60, 200);
    const list = $(".rows-of-maps", this.root);
    const targets = [];
    const row = (className, label, plot) => {
      // The cursor is HTML above the plot: moving it draws nothing anew, which keeps it within a frame.
      const target = element("div", {className: "plot"});
      plot.cursor = target.appendChild(element("i", {className: "column"}));
      plot.cursorRow = plot.q ? target.appendChild(element("i", {className: "line"})) : null;
      targets.push(target);
      list.append(element("div", {className: `row ${className}`}, element("div", {className: "label"}, ...label), target));
      return plot;
    };
    list.replaceChildren();
    this.window = new Bokeh.Range1d({start: view.start, end: view.end, bounds: [0, T], min_interval: Math.min(8, T)});
    this.window.properties.end.change.connect(() => { look(this.window.start, this.window.end); });
    this.unitsRange = new Bokeh.Range1d({start: 0, end: this.track.units});
    this.plots = [row("strip", [], this.strip()),
      ...maps.map((q) => row("map", label(q), this.map(q, height))), row("trace", [
        element("strong", {className: "trace-title"}), element("small", {textContent: "over the text"})], this.trace(maps))];
    this.dress();
    this.document = new Bokeh.Document();
    for (const plot of this.plots) this.document.add_root(plot);
    const embedded = await Bokeh.embed.add_document_standalone(this.document, this.root, targets);
    this.views = embedded;
    this.paint();
    this.shownUnit = this.size = -1;
    soon();
  }

  figure(height, extra = {}) {
    const plot = Bokeh.Plotting.figure({
      height, sizing_mode: "stretch_width", x_range: this.window, toolbar_location: null, x_axis_type: null,
      y_axis_type: null, min_border: 0, min_border_right: GAP, outline_line_color: null, tools: [], ...extra,
    });
    plot.high = height - (extra.min_border_bottom ?? 0);  // of what the borders leave
    plot.add_tools(new Bokeh.PanTool({dimensions: "width"}),
      new Bokeh.WheelZoomTool({dimensions: "width", modifiers: {ctrl: true}, maintain_focus: false}));
    plot.xgrid.visible = plot.ygrid.visible = false;
    return plot;
  }

  strip() {
    const plot = this.figure(24, {y_range: new Bokeh.Range1d({start: 0, end: 1})});
    this.matched = new Bokeh.ColumnDataSource({data: {left: [], right: []}});
    plot.bands = plot.quad({field: "left"}, {field: "right"}, 0, 1, {source: this.matched, line_color: null});
    this.letters = new Bokeh.ColumnDataSource({data: {x: tokens.map((_, t) => t + 0.5), text: tokens.map(visible)}});
    plot.letters = plot.text({field: "x"}, 0.5, {field: "text"}, {source: this.letters, text_align: "center",
      text_baseline: "middle", text_font: "ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace"});
    this.listen(plot, () => this.unit);
    return plot;
  }

  map(q, height) {
    const plot = this.figure(height, {y_range: this.unitsRange});
    plot.q = q;
    plot.source = new Bokeh.ColumnDataSource({data: {image: []}});
    plot.image_rgba({field: "image"}, 0, 0, T, this.track.units, {source: plot.source});
    this.listen(plot, (y) => this.order[clamp(this.track.units - 1 - Math.floor(y), 0, this.track.units - 1)]);
    return plot;
  }

  trace(maps) {
    const plot = this.figure(116, {y_axis_type: "linear", y_axis_location: "right",
      y_range: new Bokeh.Range1d({start: -1, end: 1}), x_axis_type: "linear", min_border_bottom: 22});
    const x = Float64Array.from(tokens, (_, t) => t + 0.5);
    this.traces = new Bokeh.ColumnDataSource({data: {x, ...Object.fromEntries(maps.map((q) => [q.name, x]))}});
    plot.lines = maps.map((q, i) => plot.line({field: "x"}, {field: q.name}, {source: this.traces, legend_label: q.name,
      line_width: q === this.track.output ? 2.2 : 1.4, line_dash: ["solid", "dashed", "dotted", "dotdash"][(i + 1) % maps.length % 4]}));
    plot.ticker = plot.yaxis.ticker = new Bokeh.FixedTicker({ticks: []});
    plot.yaxis.formatter = new Bokeh.NumeralTickFormatter({format: "0.[0]"});
    plot.legend.orientation = "horizontal";
    plot.legend.location = "top_left";
    plot.legend.padding = plot.legend.margin = 2;
    plot.legend.label_text_font_size = "11px";
    this.listen(plot, () => this.unit);
    return plot;
  }

  listen(plot, unitAt) {
    const at = (event, click) => {
      if (event.x < 0 || event.x >= T || (state.hold && !click)) return;
      this.pick(unitAt(event.y));
      go(Math.floor(event.x), false);
      if (click) hold(!state.hold);
    };
    plot.on_event("mousemove", (event) => at(event, false));
    plot.on_event("tap", (event) => at(event, true));
  }

  // Colours of the plots, which style sheets don't reach.
  dress() {
    const [ink, faint, line, mark] = ["ink", "faint", "line", "mark"].map(css);
    const colours = ["series-0", "series-1", "series-2", "series-3", "series-4"].map(css);
    for (const plot of this.plots ?? []) {
      plot.background_fill_color = plot.border_fill_color = css("card");
      if (plot.bands) plot.bands.glyph.fill_color = mark;
      if (plot.letters) plot.letters.glyph.text_color = ink;
      if (plot.lines) {
        plot.lines.forEach((l, i) => { l.glyph.line_color = i === plot.lines.length - 1 ? ink : colours[i % 5]; });
        plot.legend.background_fill_alpha = 0.7;
        plot.legend.background_fill_color = css("card");
        plot.legend.border_line_color = null;
        plot.legend.label_text_color = ink;
        for (const axis of [plot.xaxis, plot.yaxis]) {
          axis.major_label_text_color = faint;
          axis.axis_line_color = axis.major_tick_line_color = line;
          axis.minor_tick_line_color = null;
        }
        plot.ygrid.visible = true;
        plot.ygrid.grid_line_color = line;
      }
    }
  }

  paint() {
    for (const plot of this.plots) if (plot.q) {
      const image = pixels(state.theme, plot.q, this.order);
      plot.source.data = {image: [ndarray(image.buffer, {dtype: "uint32", shape: [this.track.units, T]})]};
    }
    this.mark();
  }

  mark() {
    const left = [], right = [];
    (state.marks ?? []).forEach((hit, t) => { if (hit) { left.push(t); right.push(t + 1); } });
    this.matched.data = {left, right};
    this.spans.forEach((span, t) => span.classList.toggle("hit", !!state.marks?.[t]));
  }

  zoomRows(fewer) {
    this.fewer = fewer;
    $(".rows", this.root).setAttribute("aria-pressed", fewer);
    soon();
  }

  // --- the cursor
  pick(unit) { this.unit = unit; activate(this.number); soon(); }

  show() {
    if (!this.plots) return;
    const {t} = state, {track, unit} = this, place = this.place[unit];
    const rows = this.fewer ? Math.min(24, track.units) : track.units;
    const first = clamp(place - Math.floor(rows / 2), 0, track.units - rows);
    this.unitsRange.setv({start: track.units - first - rows, end: track.units - first});
    const wide = $(".plot", this.root).clientWidth - GAP, each = wide / (view.end - view.start);
    this.fit(each);
    const left = `translateX(${((t - view.start) * each).toFixed(1)}px)`, width = `${Math.max(1, each).toFixed(1)}px`;
    const seen = t + 1 > view.start && t < view.end;
    for (const plot of this.plots) {
      Object.assign(plot.cursor.style, {transform: left, width, display: seen ? "" : "none", height: `${plot.high}px`});
      if (plot.q) Object.assign(plot.cursorRow.style, {width: `${wide}px`, height: `${Math.max(1, plot.high / rows)}px`,
        transform: `translateY(${((place - first) * plot.high / rows).toFixed(1)}px)`});
    }
    if (this.shownUnit !== unit) {
      this.shownUnit = unit;
      this.follow(unit);
      $(".trace-title", this.root).textContent = `unit ${unit}`;
      this.tint();
    }
    const panel = $(".text", this.root), {offsetTop, offsetLeft, offsetHeight, offsetWidth} = this.spans[t];
    Object.assign(this.now.style, {width: `${offsetWidth}px`, height: `${offsetHeight}px`,
      transform: `translate(${offsetLeft}px, ${offsetTop}px)`});
    if (offsetTop < panel.scrollTop || offsetTop + offsetHeight > panel.scrollTop + panel.clientHeight) {
      panel.scrollTop = offsetTop - panel.clientHeight / 2;
    }
    replace($(".readout", this.root), [element("strong", {textContent: `${quoted(t)} unit ${unit}`}),
      ...track.quantities.map((q) => element("span", {}, `${q.name} `, element("b", {textContent: q.values.shown(t, unit)})))]);
    this.root.classList.toggle("held", state.hold);
    this.explain(t, unit);
    if (track.prediction) this.expect(t, track.prediction);
    this.moved(t);
  }

  // The unit's values over time, each axis as long as it takes, and room for the legend.
  follow(unit) {
    const shown = this.plots.flatMap((plot) => plot.q ? [[plot.q.name, plot.q.values.trace(unit)]] : []);
    const plot = this.plots[this.plots.length - 1];
    let low = 0, high = 1;
    for (const [, trace] of shown) for (const v of trace) if (v < low) low = v; else if (v > high) high = v;
    if (low < 0) low = Math.min(low, -1);
    plot.ticker.ticks = low < 0 ? [low, 0, high] : [low, high];
    plot.y_range.setv({start: low - 0.05 * (high - low), end: high + 0.25 * (high - low)});
    this.traces.data = {x: this.traces.data.x, ...Object.fromEntries(shown)};
  }

  // The letters above the maps, where there is room for them.
  fit(each) {
    const size = each < 6.5 ? 0 : clamp(Math.floor(each * 1.3), 9, 15);
    if (size === this.size) return;
    this.size = size;
    this.plots[0].letters.visible = size > 0;
    if (size) this.plots[0].letters.glyph.text_font_size = `${size}px`;
  }

  // The equations with this step's numbers, and what they say in words.
  explain(t, unit) {
    const {track} = this;
    const facts = Object.entries(track.constants).map(([name, by]) =>
      by[unit] === null ? "" : `${name} ${+by[unit].toPrecision(2)} steps`).filter(Boolean);
    if (track.gates.length) facts.push(`gates within 0.1 of 0 or 1 at ${percent(track.saturation()[unit])} of steps`);
    $(".where", this.root).textContent = `${quoted(t)} unit ${unit} of ${track.units}; ${facts.join(", ")}`;
    for (const [number, key, bracket] of this.references) {
      const values = track.values[key];
      const shown = values.units === track.units ? values.shown(t, unit) : "·";
      number.textContent = bracket && shown.startsWith("−") ? `(${shown})` : shown;
    }
    replace($(".words", this.root), track.gates.map((q) => {
      const v = q.values.at(t, unit);
      return element("li", {}, element("b", {textContent: q.name}), " ", ...(q.title ? [`(${q.title}) `] : []), inWords(q, v));
    }));
  }

  expect(t, prediction) {
    const came = tokens[t + 1], largest = prediction.p[t][0];
    replace($(".next tbody", this.root), prediction.best[t].slice(0, 6).map((token, i) => {
      const row = bar([`${token === came ? "▸ " : ""}${visible(token)}`], prediction.p[t][i] / largest, percent(prediction.p[t][i]));
      row.classList.toggle("came", token === came);
      return row;
    }));
    const p = prediction.next_p[t];
    $(".then", this.root).textContent = came === undefined ? "The text ends here." : p === null
      ? `Then came ${visible(came)}, which the model does not know.`
      : `▸ Then came ${visible(came)}: ${percent(p)}, place ${prediction.next_rank[t]}; a surprise of ${(-Math.log2(p)).toFixed(1)} bits.`;
  }

  moved(t) {
    const {values} = this.track.output;
    const before = Math.max(0, t - 1);
    const change = Array.from({length: this.track.units}, (_, unit) => [unit, values.at(t, unit) - values.at(before, unit)])
      .filter(([, by]) => Number.isFinite(by));
    change.sort((a, b) => Math.abs(b[1]) - Math.abs(a[1]));
    const largest = Math.abs(change[0]?.[1]) || 1;
    replace($(".changed tbody", this.root), change.slice(0, 6).map(([unit, by]) => bar([this.link(unit)], Math.abs(by) / largest,
      `${written(values.at(before, unit), 2)} → ${written(values.at(t, unit), 2)}`, by < 0)));
  }

  find() {
    const {marks} = state;
    $(".found", this.root).hidden = !marks;
    $(".hint", this.root).textContent = marks ? "−1 to 1: over the whole text, of the value named, with 1 inside a match and 0 outside."
      : "Type a pattern above, or try one of those beside it: the units that tell where it is are listed here.";
    this.best = marks ? followers(this.track, marks, 6) : [];
    replace($(".found tbody", this.root), this.best.map(({unit, r, q}) =>
      bar([this.link(unit, q), ` ${q.name}`], Math.abs(r), written(r, 2), r < 0)));
    if (this.orderName === "pattern") this.sort("pattern");
  }

  link(unit, q = null) {
    const button = element("button", {type: "button", className: "unit", textContent: `unit ${unit}`});
    button.onclick = () => this.choose(unit, q);
    return button;
  }

  choose(unit, q) {
    if (q) { this.colour = q; $(".colour", this.root).value = q.name; this.shownUnit = -1; }
    this.pick(unit);
    hold(true);
  }
}

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
  return `is ${v < 0.1 ? "shut" : v > 0.9 ? "open" : "in between"}.`;
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

// --- what happens -------------------------------------------------------------------------------
const view = {start: 0, end: Math.min(T, 80)};
let waiting = false, quiet = 0;
function soon() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    for (const side of sides) side.show();
    clearTimeout(quiet);  // a screen reader is told where the cursor came to rest
    quiet = setTimeout(() => { $("#status").textContent = $(".readout", sides[state.active].root).textContent; }, 400);
  });
}

function look(start, end) {
  if (start === view.start && end === view.end) return;
  Object.assign(view, {start, end});
  for (const side of sides) if (side.window.start !== start || side.window.end !== end) side.window.setv({start, end});
  soon();
}

function zoom(factor) {
  const wide = clamp((view.end - view.start) * factor, Math.min(8, T), T);
  const middle = state.t + 0.5, share = clamp((middle - view.start) / (view.end - view.start), 0, 1);
  const start = clamp(middle - share * wide, 0, T - wide);
  look(start, start + wide);
}

function go(t, follow = true) {
  state.t = clamp(t, 0, T - 1);
  if (follow && (state.t < view.start || state.t + 1 > view.end)) {
    const wide = view.end - view.start, start = clamp(Math.round(state.t - wide / 2), 0, T - wide);
    look(start, start + wide);
  }
  soon();
}

function activate(number) { if (sides[number]) state.active = number; }
function hold(on) { state.hold = on; soon(); }

async function compare(on) {
  if (on === sides.length > 1) return;
  document.body.classList.toggle("two", on);
  $("#compare").setAttribute("aria-pressed", on);
  if (on) await open(1);
  else { sides[1].document.clear(); sides.pop().root.remove(); state.active = 0; soon(); }
}

async function open(number) {
  const side = new Side(number);
  sides.push(side);
  $("#sides").append(side.root);
  await side.take(side.track);
  side.find();
}

function dress(theme) {
  state.theme = theme;
  document.documentElement.dataset.theme = theme;
  $("#theme").textContent = theme === "dark" ? "Light" : "Dark";
  for (const side of sides) {
    side.dress();
    side.paint();
    side.tint();
    side.root.querySelectorAll(".map .scale").forEach((scale, i) =>
      replace(scale, legend(side.plots.filter((plot) => plot.q)[i].q)));
  }
}

function search(source) {
  const field = $("#pattern"), told = $("#matches");
  field.removeAttribute("aria-invalid");
  state.marks = null;
  told.textContent = "";
  if (source) try {
    const {marks, matches, characters} = marksOf(source);
    told.textContent = `${matches} ${matches === 1 ? "match" : "matches"}`;
    told.title = `${characters} of ${T} characters`;
    if (characters && characters < T) state.marks = marks;
    else told.textContent += characters ? ": the pattern must leave some out" : "";
  } catch (error) {
    field.setAttribute("aria-invalid", "true");
    told.textContent = error.message.replace(/^Invalid regular expression: /, "not a pattern: ");
  }
  for (const side of sides) { side.find(); side.mark(); }
  soon();
}

const EXAMPLES = [["vowels", "[aeiouAEIOU]"], ["spaces", " "], ["capitals", "\\p{Lu}"], ["in ( )", "\\([^()]*\\)"],
  ["in quotes", "\"[^\"\\n]*\"|'[^'\\n]*'"], ["digits", "\\d+"], ["indentation", "^[ \\t]+"], ["line's last word", "\\S+$"],
  ["first letters", "\\b\\w"]];

const KEYS = {
  ArrowLeft: (shift) => go(state.t - (shift ? 10 : 1)), ArrowRight: (shift) => go(state.t + (shift ? 10 : 1)),
  ArrowUp: (shift) => step(shift ? -10 : -1), ArrowDown: (shift) => step(shift ? 10 : 1),
  Home: () => go(0), End: () => go(T - 1), Enter: () => hold(!state.hold),
  "/": () => { $("#pattern").focus(); $("#pattern").select(); },
  "?": () => $("#help").showModal(),
  "+": () => zoom(0.5), "=": () => zoom(0.5), "-": () => zoom(2), "0": () => zoom(Infinity),
  c: () => compare(sides.length < 2), t: () => dress(state.theme === "dark" ? "light" : "dark"),
  s: () => { state.active = (state.active + 1) % sides.length; $(".maps", sides[state.active].root).focus(); },
  o: () => {
    const side = sides[state.active], names = Object.keys(side.track.orders());
    side.sort(names[(names.indexOf(side.orderName) + 1) % names.length]);
  },
  z: () => { const side = sides[state.active]; side.zoomRows(!side.fewer); },
};

function step(by) {
  const side = sides[state.active];
  side.pick(side.order[clamp(side.place[side.unit] + by, 0, side.track.units - 1)]);
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || $("#help").open) return;
  const tag = event.target.tagName;
  if (tag === "INPUT" && event.target.type === "text") { if (event.key === "Escape") event.target.blur(); return; }
  if (tag === "SELECT" || ((tag === "BUTTON" || tag === "INPUT") && ["Enter", " "].includes(event.key))) return;
  const run = KEYS[event.key];
  if (!run) return;
  event.preventDefault();
  run(event.shiftKey);
});

const tracks = data.tracks.map((raw) => new Track(raw));
$("#about").textContent = `${T} ${letters ? "characters" : "steps"}; ${[...new Set(tracks.map((track) =>
  `${track.cell}, ${track.units} units`))].join("; ")}`;
$("#search").hidden = !data.text;
$("#search").onsubmit = (event) => {
  event.preventDefault();
  const side = sides[state.active], best = side.best[0];
  if (best) { side.choose(best.unit, best.q); $("#pattern").blur(); }
};
$("#pattern").oninput = (event) => search(event.target.value);
replace($("#examples"), EXAMPLES.filter(([, source]) => {
  const {characters} = marksOf(source);
  return characters > 1 && characters < T;
}).slice(0, 6).map(([name, source]) => {
  const button = element("button", {type: "button", className: "try", textContent: name, title: source});
  button.onclick = () => { $("#pattern").value = source; search(source); };
  return button;
}));
$("#compare").onclick = () => compare(sides.length < 2);
$("#theme").onclick = () => KEYS.t();
$("#keys").onclick = () => KEYS["?"]();

// Paper is white: the colours change for the time of printing, and wide plots shrink to the sheet.
const printing = {before: null};
addEventListener("beforeprint", () => {
  printing.before ??= state.theme;
  if (state.theme === "dark") dress("light");
  for (const side of sides) for (const view of side.views) view.repaint?.();  // now: a frame later it is printed
  const hidden = Math.max(...sides.map((side) => $(".text", side.root).scrollHeight - $(".text", side.root).clientHeight));
  const {scrollHeight, clientWidth} = document.body;  // one sheet, A4 lying, where that can be read
  const zoom = Math.max(0.6, Math.min(1, 1040 / clientWidth, 690 / (scrollHeight + hidden)));
  document.documentElement.style.setProperty("--print-zoom", zoom);
});
addEventListener("afterprint", () => { if (printing.before) dress(printing.before); printing.before = null; });

const dark = matchMedia("(prefers-color-scheme: dark)");
dark.addEventListener("change", () => dress(dark.matches ? "dark" : "light"));
dress(dark.matches ? "dark" : "light");
// The cursor begins where the model knows least what comes.
const doubt = tracks[0].prediction?.p.slice(0, Math.min(T, view.end)).map((p) => p[0]);
state.t = doubt ? doubt.indexOf(Math.min(...doubt.slice(Math.min(8, T - 1)))) : 0;
open(0).then(() => { document.documentElement.dataset.ready = "yes"; });
