// What happens on the page: its state, keys, the pattern, light and dark, printing.

const state = {t: 0, hold: false, theme: "light", marks: null, active: 0};
const sides = [];
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
// The first layer of a second run, which is what the right side begins with; 0 if there is one run.
const runOf = (track) => track.title.includes(" · ") ? track.title.split(" · ")[0] : "";
const OTHER = Math.max(0, tracks.findIndex((track) => runOf(track) !== runOf(tracks[0])));
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

addEventListener("resize", soon);

// Paper is white: the colours change for the time of printing, and wide plots shrink to the sheet.
const printing = {before: null};
addEventListener("beforeprint", () => {
  printing.before ??= state.theme;
  if (state.theme === "dark") dress("light");
  for (const side of sides) for (const view of side.views) {  // now, and not in the next frame, which comes too late
    for (const renderer of view.computed_renderer_views ?? []) renderer.set_visuals?.();
    view.request_repaint?.();
    view.repaint?.();
  }
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
open(0).then(() => OTHER ? compare(true) : null).then(() => { document.documentElement.dataset.ready = "yes"; });
