// What a side draws with Bokeh: the letters, the maps, the trace.

const GAP = 34;  // right of every plot, where the trace has its axis, so that all columns lie under each other
const ndarray = Bokeh.require("core/util/ndarray").ndarray;

class Plots {
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
    this.followed = "";
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

  // The unit's values over time, as far as they are seen; the axis as long as the unit takes, and room for the legend.
  follow(unit) {
    const from = Math.max(0, Math.floor(view.start) - 1), to = Math.min(T, Math.ceil(view.end) + 1);
    const shown = this.plots.flatMap((plot) => plot.q ? [[plot.q.name, plot.q.values.trace(unit)]] : []);
    const plot = this.plots[this.plots.length - 1];
    let low = 0, high = 1;
    for (const [, trace] of shown) for (const v of trace) if (v < low) low = v; else if (v > high) high = v;
    if (low < 0) low = Math.min(low, -1);
    if (low !== plot.low || high !== plot.highest) {
      Object.assign(plot, {low, highest: high});
      plot.ticker.ticks = low < 0 ? [low, 0, high] : [low, high];
      plot.y_range.setv({start: low - 0.05 * (high - low), end: high + 0.25 * (high - low)});
    }
    const x = Float64Array.from({length: to - from}, (_, i) => from + i + 0.5);
    this.traces.data = {x, ...Object.fromEntries(shown.map(([name, trace]) => [name, trace.subarray(from, to)]))};
  }

  // The letters above the maps, where there is room for them.
  fit(each) {
    const size = each < 6.5 ? 0 : clamp(Math.floor(each * 1.3), 9, 15);
    if (size === this.size) return;
    this.size = size;
    this.plots[0].letters.visible = size > 0;
    if (size) this.plots[0].letters.glyph.text_font_size = `${size}px`;
  }
}
