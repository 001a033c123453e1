// One side of the page: a layer, a unit, and all that is said about them. The page has one or two.

class Side extends Plots {
  constructor(number) {
    super();
    this.number = number;
    this.root = $("#side").content.firstElementChild.cloneNode(true);
    this.root.setAttribute("aria-label", number ? "Right side" : "Left side");
    this.track = tracks[number ? OTHER || Math.min(1, tracks.length - 1) : 0];
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
      const c = colours[t], style = c ? `rgb(${c})` : "";
      if (span.tinted === style) return;  // to ask for the same costs as much as to change it
      span.tinted = span.style.backgroundColor = style;
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

  // --- the cursor
  zoomRows(fewer) {
    this.fewer = fewer;
    $(".rows", this.root).setAttribute("aria-pressed", fewer);
    soon();
  }

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
    const inside = t + 1 > view.start && t < view.end;
    for (const plot of this.plots) {
      Object.assign(plot.cursor.style, {transform: left, width, display: inside ? "" : "none", height: `${plot.high}px`});
      if (plot.q) Object.assign(plot.cursorRow.style, {width: `${wide}px`, height: `${Math.max(1, plot.high / rows)}px`,
        transform: `translateY(${((place - first) * plot.high / rows).toFixed(1)}px)`});
    }
    const seen = `${unit} ${view.start} ${view.end}`;
    if (this.followed !== seen) this.follow(unit);
    this.followed = seen;
    if (this.shownUnit !== unit) {
      this.shownUnit = unit;
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
    const before = (unit) => t ? values.at(t - 1, unit) : 0;  // the state begins with zeros
    const change = Array.from({length: this.track.units}, (_, unit) => [unit, values.at(t, unit) - before(unit)])
      .filter(([, by]) => Number.isFinite(by));
    change.sort((a, b) => Math.abs(b[1]) - Math.abs(a[1]));
    const largest = Math.abs(change[0]?.[1]) || 1;
    replace($(".changed tbody", this.root), change.slice(0, 6).map(([unit, by]) => bar([this.link(unit)], Math.abs(by) / largest,
      `${written(before(unit), 2)} → ${written(values.at(t, unit), 2)}`, by < 0)));
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
