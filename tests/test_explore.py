"""The explorer's page: its data, its words, and the page itself in a headless Chromium."""

import base64
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

import gatewise
from gatewise.errors import InputError
from gatewise.inspect import page
from gatewise.inspect.words import describe
from gatewise.tasks import text

TEXT = 'def f(x):\n    return (x + "a b") * (2 if x else f(1))\n'


def model(cell="gru", hidden=12, layers=1, seed=0):
    torch.manual_seed(seed)
    made = text.LanguageModel(cell, text.Vocabulary.of(TEXT), hidden_size=hidden, num_layers=layers)
    with torch.no_grad():  # so that gates differ
        for parameter in made.parameters():
            parameter.mul_(3)
    return made


def data_of(html):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)[1])


def unpacked(packed, key, steps):
    """The numbers of a key, as the page's code gets them."""
    one = packed[key]
    rows = np.frombuffer(base64.b64decode(one["data"]), "<i2").astype(float)
    rows[rows == page.MISSING] = np.nan
    rows *= 10.0 ** -one["decimals"]
    if "of" in one:
        other = unpacked(packed, one["of"], steps)
        return np.vstack([rows, other[:-1]] if one["shift"] > 0 else [other[1:], rows])
    order = range(steps) if one["rows"] is None else np.frombuffer(base64.b64decode(one["rows"]), "<i2")
    return rows.reshape(max(order) + 1, -1)[order]


# --- the data -------------------------------------------------------------------------------------


def test_numbers_survive_to_the_digits_shown():
    random = np.random.default_rng(0)
    gates, large = random.random((40, 7)), random.normal(0, 2000, (40, 7))
    few = random.normal(0, 3, (4, 7))[random.integers(0, 4, 40)]
    holes = np.where(random.random((40, 7)) < 0.2, np.nan, gates)
    old, later = np.vstack([gates[:1] + 1, gates[:-1]]), np.vstack([gates[1:], gates[:1]])
    later[-1] = 0.5
    values = {"old": old, "later": later, "large": large, "few": few, "holes": holes, "gates": gates}
    packed = page.pack(values)
    for key, value in values.items():
        decimals = packed[key]["decimals"]
        np.testing.assert_allclose(unpacked(packed, key, 40), np.round(value, decimals), atol=1e-9)
    assert (packed["gates"]["decimals"], packed["few"]["decimals"]) == (4, 3)
    assert packed["large"]["decimals"] <= 1
    assert (packed["old"]["of"], packed["old"]["shift"], packed["later"]["shift"]) == ("gates", 1, -1)
    assert len(base64.b64decode(packed["few"]["data"])) == 4 * 7 * 2  # what repeats is there once


@pytest.mark.parametrize("cell", ["gru", "lstm", "rnn"])
def test_the_page_holds_what_was_recorded(cell):
    net = model(cell, layers=2)
    x = net.vocabulary.encode(TEXT).unsqueeze(1)
    with gatewise.record(net) as seen, torch.no_grad():
        scores, _ = net(x)
    data = data_of(gatewise.inspect.explore(net, TEXT))
    assert "".join(data["tokens"]) == TEXT
    assert [track["title"] for track in data["tracks"]] == ["layer.l0", "layer.l1"]
    for track in data["tracks"]:
        recorded = seen[track["title"]]
        assert {q["name"] for q in track["quantities"]} == set(recorded)
        assert track["quantities"][-1]["name"] == "h"
        for q in track["quantities"]:
            got = unpacked(track["values"], q["key"], len(TEXT))
            expected = recorded[q["name"]][:, 0].double().numpy()
            # Which values are asked for decides the kernels, and so the last bits.
            np.testing.assert_allclose(got, expected, atol=0.55 * 10.0 ** -track["values"][q["key"]]["decimals"])
        assert sorted(track["similar"]) == list(range(12))
    likely = scores[:, 0].softmax(-1)
    predicted = data["predictions"][0]
    for t in (0, 20, len(TEXT) - 2):
        assert predicted["best"][t][0] == net.vocabulary.tokens[int(likely[t].argmax())]
        following = net.vocabulary.tokens.index(TEXT[t + 1])
        assert predicted["next_p"][t] == pytest.approx(float(likely[t, following]), rel=1e-3)
        assert predicted["next_rank"][t] == 1 + int((likely[t] > likely[t, following]).sum())


def test_any_module_both_directions_padding_and_projections():
    torch.manual_seed(0)
    layer = gatewise.LSTM(3, 8, bidirectional=True, proj_size=2, batch_first=True).train()
    x = torch.randn(2, 5, 3)
    with gatewise.record(layer) as seen, torch.no_grad():
        layer(x)
    data = data_of(gatewise.inspect.explore({"mine": layer}, x, tokens=["a", "bb", "c", "d", "e"], sample=1))
    assert layer.training
    assert [track["title"] for track in data["tracks"]] == ["mine · l0", "mine · l0_reverse"]
    for track, key in zip(data["tracks"], seen, strict=True):
        names = {q["name"]: q["key"] for q in track["quantities"]}
        assert set(names) == {"i", "f", "g", "o", "c"}  # h is projected: no unit has a value of it
        np.testing.assert_allclose(unpacked(track["values"], names["c"], 5), seen[key]["c"][:, 1], atol=5e-4)
    assert data["predictions"] == []
    assert data_of(gatewise.inspect.explore(layer, x))["tokens"] == ["0", "1", "2", "3", "4"]


def test_units_that_behave_alike_stand_side_by_side():
    random = np.random.default_rng(0)
    groups = random.normal(size=(200, 3))
    kind = random.permutation(np.repeat([0, 1, 2], 5))
    order = page.similarity_order(groups[:, kind] + 0.1 * random.normal(size=(200, 15)))
    assert sorted(order) == list(range(15))
    assert sum(a != b for a, b in zip(kind[order], kind[order][1:], strict=False)) == 2
    assert sorted(page.similarity_order(np.ones((4, 5)))) == list(range(5))  # units that never move divide nothing by 0


def test_time_constants_are_those_of_the_gate_that_keeps_the_old_state():
    net = model("lstm")
    x = net.vocabulary.encode(TEXT).unsqueeze(1)
    with gatewise.record(net, "f") as seen, torch.no_grad():
        net(x)
    constants = data_of(gatewise.inspect.explore(net, TEXT))["tracks"][0]["constants"]
    expected = -1 / seen["layer.l0"]["f"][:, 0].double().mean(0).log()
    assert constants["time constant of c"] == pytest.approx(expected.tolist(), rel=1e-3)


def test_words_come_from_the_graph():
    gru = describe(gatewise.cells.gru)
    assert (gru["z"].opens, gru["z"].shuts) == ("the old h", "the candidate n")
    assert (gru["r"].kind, gru["r"].title, gru["r"].shuts) == ("gate", "reset gate", "")
    lstm = describe(gatewise.cells.lstm)
    assert (lstm["f"].opens, lstm["o"].opens) == ("the old c", "tanh(c)")

    @gatewise.cell(gates="u")
    def own(x, h):
        keep = torch.sigmoid(x.u + h.u)
        return (1 - keep) * h + keep * torch.relu(x.u)

    mine = describe(own)
    assert (mine["keep"].title, mine["keep"].shuts, mine["keep"].opens) == ("", "the old h", "relu(the input)")
    changed = describe(gatewise.clip_state_grad(gatewise.cells.gru, 1.0))["z"]
    assert (changed.title, changed.opens) == ("update gate", "the old h")
    for cell in vars(gatewise.cells).values():
        if isinstance(cell, gatewise.Graph):
            assert not any("what it multiplies" in said.about for said in describe(cell).values())


# --- what can't be shown --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        ("", {}, "the text has 0 characters, expected at least one"),
        ("x" * 2001, {}, "2,001 characters, at most 2,000 are allowed"),
        ("def ü", {}, "the model never saw 'ü'"),
        ("x x", {"tokens": ["x"]}, "tokens has 1 entries, expected 3"),
        ("x x", {"sample": 1}, "sample is 1, expected 0 to 0, one of the 1 of the batch"),
    ],
)
def test_bad_inputs_are_refused_in_one_line(x, options, message):
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        gatewise.inspect.explore(model(), x, **options)
    assert "\n" not in str(caught.value)


def test_a_text_needs_a_text_model_and_a_model_its_layers():
    with pytest.raises(InputError, match=r"a text needs a model of gatewise\.tasks\.text, got GRU: give a tensor"):
        gatewise.inspect.explore(gatewise.GRU(3, 4), "abc")
    with pytest.raises(ValueError, match="no layer of gatewise's"):
        gatewise.inspect.explore(torch.nn.Linear(3, 4), torch.randn(2, 1, 3))
    with pytest.raises(InputError, match="there is no model"):
        gatewise.inspect.explore({}, "abc")


@pytest.mark.parametrize("package", ["bokeh", pytest.param("scipy", marks=pytest.mark.slow)])
def test_a_missing_package_is_named_with_its_extra(package):
    code = f"""
import sys
sys.modules[{package!r}] = None  # import fails, as of a package that is not there
import gatewise
gatewise.inspect.explore
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    line = done.stderr.strip().splitlines()[-1]
    assert "MissingPackageError: the explorer needs" in line
    assert 'which is not installed: pip install "gatewise[explore]"' in line
    assert package in line


def test_the_command(tmp_path, monkeypatch, capsys):
    from gatewise import cli

    def command(*arguments):
        monkeypatch.setattr("sys.argv", ["gatewise", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        return caught.value.code, *capsys.readouterr()

    data, run = tmp_path / "text.txt", tmp_path / "run"
    data.write_text(TEXT * 20)
    sizes = ["--hidden=8", "--steps=8", "--batch=4", "--epochs=1"]
    assert command("train", "text", "--data", data, *sizes, "--out", run)[0] == 0
    code, out, err = command("explore", run, "--text", "def f(x)")
    assert (code, err) == (0, "")
    assert re.fullmatch(rf"{re.escape(str(run))}/explore\.html: \d\.\d MB; open it in a browser\n", out)
    assert "".join(data_of((run / "explore.html").read_text(encoding="utf-8"))["tokens"]) == "def f(x)"
    code, _, _ = command("explore", run, run, "--file", data, "--out", tmp_path / "two.html")
    assert code == 0
    assert len(data_of((tmp_path / "two.html").read_text(encoding="utf-8"))["tracks"]) == 4
    (tmp_path / "two.html").write_text("mine")
    assert command("explore", run, run, "--file", data, "--out", tmp_path / "two.html")[0] == 2
    assert (tmp_path / "two.html").read_text() == "mine"
    assert command("explore", run, run, "--file", data, "--out", tmp_path / "two.html", "--force")[0] == 0
    assert (tmp_path / "two.html").read_text(encoding="utf-8") != "mine"
    assert command("explore", run, "--text", "def f(x)")[0] == 0  # its own file in the run is written anew
    for arguments, message in (
        ((tmp_path / "none",), "there is no folder"),
        ((tmp_path,), "holds no run"),
        ((run, "--text", ""), "the text has 0 characters"),
        ((run, "--text", "ß"), "the model never saw 'ß'"),
        ((run, "--text", "x", "--file", data), "exclude each other"),
    ):
        code, _, err = command("explore", *arguments)
        assert (code, err.count("\n")) == (2, 1)
        assert message in err


# --- the page -------------------------------------------------------------------------------------


def test_the_page_is_one_file_that_names_no_other():
    html = gatewise.inspect.explore(model(), "x")
    own = html.replace(page._bokeh(), "")
    assert len(own) < len(html) - 1_000_000  # Bokeh is in it
    assert "default-src 'none'" in own
    assert not re.search(r"""(src|href)\s*=\s*["'](?!data:)|https?://|@import|url\((?!data:)""", own)
    assert not re.search(r"\{\{[A-Z]+\}\}", own)


def test_a_text_cannot_break_out_of_its_place():
    values = {"%0": np.zeros((3, 4))}
    tokens = ["</script>", "<!--", "{{STYLE}}"]
    track = page.Track("<b>", "c", [page.Quantity("%0", "h")], values)
    html = page.page(tokens, [track], "<i>&")
    assert data_of(html)["tokens"] == tokens
    assert "<title>&lt;i&gt;&amp;</title>" in html
    assert "<b>" not in html.replace(page._bokeh(), "").replace("<b>(", "")


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    if CHROMIUM is None:
        pytest.skip("needs a Chromium: apt install chromium")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def opened(browser, tmp_path):
    """Open a page; at the end, no error may have been logged and nothing else may have been asked for."""
    wrong, contexts = [], []

    def open_page(html, **options):
        file = tmp_path / "page.html"
        file.write_text(html, encoding="utf-8")
        context = browser.new_context(viewport={"width": 1400, "height": 900}, **options)
        contexts.append(context)

        def route(request):
            if request.request.url == file.as_uri():
                request.continue_()
            else:
                wrong.append(request.request.url)
                request.abort()

        context.route("**/*", route)
        shown = context.new_page()
        shown.on("console", lambda m: wrong.append(m.text) if m.type in ("error", "warning") else None)
        shown.on("pageerror", lambda error: wrong.append(str(error)))
        shown.goto(file.as_uri())
        shown.wait_for_selector("html[data-ready]")
        return shown

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


def frame(shown):
    """Wait until what was changed is on the screen."""
    shown.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def until(shown, true):
    """Wait for an expression to become true, half a minute at most."""
    for _ in range(1000):
        if shown.evaluate(true):
            return
        frame(shown)
    raise AssertionError(f"never became true: {true}")


def cursor(shown, side=0):
    """Where the cursor is, and the values told there: t, unit, and name -> text."""
    frame(shown)
    told = shown.locator(".readout").nth(side).inner_text()
    t, unit = re.match(r"(?:character|step) (\d+), .*: unit (\d+)", told, re.S).groups()
    return int(t), int(unit), dict(re.findall(r"(\w+)\s(−?\d\.\d+)", told.replace("\n", " ")))


def shown_number(value, decimals=4):
    return f"{value:.{decimals}f}".replace("-0.0000", "0.0000").replace("-", "−")


def test_keys_move_and_the_numbers_are_those_recorded(opened):
    net = model()
    with gatewise.record(net, [f"%{i}" for i in range(len(net.layer.cell.nodes))]) as seen, torch.no_grad():
        net(net.vocabulary.encode(TEXT).unsqueeze(1))
    recorded = {key: value[:, 0] for key, value in seen["layer.l0"].items()}
    names = {**dict(net.layer.cell.names), **dict(net.layer.cell.outputs)}
    html = gatewise.inspect.explore(net, TEXT)
    track = data_of(html)["tracks"][0]
    shown = opened(html)
    places = set()
    for keys in ("Home", 3 * "ArrowRight ", 5 * "ArrowDown ", "Shift+ArrowRight ArrowUp", "End", "ArrowLeft"):
        for key in keys.split():
            shown.keyboard.press(key)
        t, unit, told = cursor(shown)
        places.add((t, unit))
        assert told == {name: shown_number(recorded[f"%{names[name]}"][t, unit]) for name in "rznh"}
        # The equations: every number in its place.
        numbers = shown.locator(".lines .value b").all_inner_texts()
        parts = [part for line in track["lines"] for part in line if isinstance(part, list)]
        assert len(numbers) == len(parts) > 10
        for number, (_, key, bracket) in zip(numbers, parts, strict=True):
            expected = shown_number(recorded[key][t, unit], track["values"][key]["decimals"])
            assert number == (f"({expected})" if bracket and expected.startswith("−") else expected)
    assert len(places) == 6
    assert {t for t, _ in places} >= {0, 3, len(TEXT) - 1, len(TEXT) - 2}


def test_predictions_and_words_follow_the_cursor(opened):
    net = model()
    with gatewise.record(net, "z") as seen, torch.no_grad():
        scores, _ = net(net.vocabulary.encode(TEXT).unsqueeze(1))
    shown = opened(gatewise.inspect.explore(net, TEXT))
    for t in (0, 7):
        shown.keyboard.press("Home")
        for _ in range(t):
            shown.keyboard.press("ArrowRight")
        _, unit, _ = cursor(shown)
        best = scores[t, 0].softmax(-1)
        row = shown.locator(".next tbody tr").first.inner_text()
        token = net.vocabulary.tokens[int(best.argmax())]
        assert {" ": "␣", "\n": "↵"}.get(token, token) in row
        assert f"{100 * float(best.max()):.0f} %" in row
        z = 100 * float(seen["layer.l0"]["z"][t, 0, unit])
        words = shown.locator(".words").inner_text()
        if 1 < z < 99:
            assert f"takes {z:.0f} % of the old h and {100 - z:.0f} % of the candidate n" in words


def test_hovering_moves_and_a_click_holds(opened):
    shown = opened(gatewise.inspect.explore(model(), TEXT))
    box = shown.locator(".map .plot").first.bounding_box()

    def hover(x, y):
        shown.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
        return cursor(shown)[:2]

    left_top, right_low = hover(0.1, 0.1), hover(0.6, 0.9)
    assert left_top[0] < right_low[0]
    assert left_top[1] != right_low[1]
    words = shown.locator(".equations").inner_text()
    shown.mouse.click(box["x"] + 0.6 * box["width"], box["y"] + 0.9 * box["height"])
    assert hover(0.2, 0.2) == right_low
    assert shown.locator(".equations").inner_text() == words
    shown.keyboard.press("Enter")
    assert hover(0.3, 0.1) != right_low
    unit = cursor(shown)[1]
    shown.locator('[data-t="4"]').hover()
    assert cursor(shown)[:2] == (4, unit)
    # The cursor's box lies over the column of its character.
    column, plot = (shown.locator(f".map .plot{s}").first.bounding_box() for s in (" .column", ""))
    each = (plot["width"] - 34) / len(TEXT)
    assert column["x"] - plot["x"] == pytest.approx(4 * each, abs=1)


def planted(follows=r"\([^()]*\)", unit=7, seed=0):
    """A track in which one unit is high inside brackets."""
    random = np.random.default_rng(seed)
    inside = np.zeros(len(TEXT))
    for match in re.finditer(follows, TEXT):
        inside[match.start() : match.end()] = 1
    h = random.normal(0, 0.2, (len(TEXT), 20)).clip(-1, 1)
    h[:, unit] = 0.8 * inside + 0.05 * random.normal(size=len(TEXT))
    z = random.random((len(TEXT), 20))
    quantities = [page.Quantity("%1", "z", kind="gate"), page.Quantity("%0", "h")]
    return page.Track("planted", "own", quantities, {"%0": h, "%1": z})


def test_a_pattern_finds_the_unit_that_follows_it(opened):
    shown = opened(page.page(list(TEXT), [planted()], "planted"))
    shown.keyboard.press("/")
    shown.keyboard.type(r"\([^()]*\)")
    frame(shown)
    first = shown.locator(".found tbody tr").first.inner_text()
    assert "unit 7 h" in first
    assert float(re.search(r"\d\.\d+", first)[0]) > 0.95
    assert shown.locator("#matches").inner_text() == f"{len(re.findall(r'[(][^()]*[)]', TEXT))} matches"
    assert shown.locator(".text .hit").count() == sum(len(m) for m in re.findall(r"\([^()]*\)", TEXT))
    shown.keyboard.press("Enter")
    assert cursor(shown)[1] == 7
    # Its characters are coloured: those inside brackets otherwise than those outside.
    colours = shown.evaluate("[...document.querySelectorAll('.text span')].map((s) => s.style.backgroundColor)")
    at = TEXT.index("(x)")
    assert colours[at] != colours[0]
    shown.select_option(".order", "pattern")
    frame(shown)
    assert shown.evaluate("sides[0].order[0]") == 7
    shown.fill("#pattern", "(")
    assert "not a pattern" in shown.locator("#matches").inner_text()
    assert shown.locator("#pattern").get_attribute("aria-invalid") == "true"
    shown.fill("#pattern", "")
    assert shown.locator(".found tbody tr").count() == 0


def test_two_sides_share_the_cursor(opened):
    tracks = [planted(), planted(r'"[^"]*"', unit=3, seed=1)]
    shown = opened(page.page(list(TEXT), tracks, "two"))
    assert shown.locator(".side").count() == 1
    shown.keyboard.press("c")
    until(shown, "Boolean(sides[1]?.views)")
    frame(shown)
    assert shown.locator(".side").count() == 2
    shown.keyboard.press("Home")
    shown.keyboard.press("ArrowRight")
    left, right = cursor(shown, 0), cursor(shown, 1)
    assert left[0] == right[0] == 1
    shown.keyboard.press("s")
    shown.keyboard.press("ArrowUp" if right[1] == shown.evaluate("sides[1].order.at(-1)") else "ArrowDown")
    assert cursor(shown, 0)[1] == left[1]
    assert cursor(shown, 1)[1] != right[1]
    shown.keyboard.press("0")
    frame(shown)
    assert shown.evaluate("sides.map((s) => s.window.end)") == [len(TEXT)] * 2
    shown.click("#compare")
    frame(shown)
    assert shown.locator(".side").count() == 1


def mean_pixel(shown, selector):
    from io import BytesIO

    from PIL import Image

    return np.asarray(Image.open(BytesIO(shown.locator(selector).first.screenshot())).convert("RGB")).mean()


def test_dark_light_and_print(opened):
    html = page.page(list(TEXT), [planted()], "dark")
    shown = opened(html, color_scheme="dark")
    assert shown.evaluate("document.documentElement.dataset.theme") == "dark"
    assert shown.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(11, 14, 18)"
    dark = mean_pixel(shown, ".map .plot")
    shown.keyboard.press("t")
    until(shown, "state.theme === 'light'")
    for _ in range(3):  # the plots are drawn in a later frame
        frame(shown)
    assert mean_pixel(shown, ".map .plot") > dark + 50
    for scheme in ("light", "dark"):
        shown.emulate_media(color_scheme=scheme)
        until(shown, f"matchMedia('(prefers-color-scheme: {scheme})').matches")
        frame(shown)  # the page is told before the next one
        until(shown, f"state.theme === '{scheme}'")
    shown.evaluate("dispatchEvent(new Event('beforeprint'))")
    shown.emulate_media(media="print", color_scheme="dark")
    assert not shown.locator("#theme").is_visible()
    assert shown.evaluate("state.theme") == "light"
    assert shown.evaluate("getComputedStyle(document.querySelector('.text')).maxHeight") == "none"
    assert shown.pdf().startswith(b"%PDF")
    shown.evaluate("dispatchEvent(new Event('afterprint'))")
    assert shown.evaluate("state.theme") == "dark"


def test_everything_is_reached_by_keyboard_and_has_a_name(opened):
    shown = opened(gatewise.inspect.explore(model("lstm", layers=2), TEXT))
    shown.keyboard.press("?")
    assert shown.locator("#help").is_visible()
    shown.keyboard.press("Escape")
    reached = set()
    for _ in range(60):
        shown.keyboard.press("Tab")
        reached.add(shown.evaluate("document.activeElement.id || document.activeElement.className"))
    assert reached >= {"pattern", "compare", "theme", "keys", "track", "order", "colour", "text", "maps card", "unit"}
    nameless = shown.evaluate(
        "[...document.querySelectorAll('button, select, input, [tabindex]')].filter((e) => !(e.textContent.trim()"
        " || e.getAttribute('aria-label') || e.labels?.length)).map((e) => e.outerHTML)"
    )
    assert nameless == []
    assert shown.locator("#status").get_attribute("role") == "status"


def test_a_thousand_characters_and_512_units_stay_fluid(browser, opened):
    random = np.random.default_rng(0)
    values = {f"%{i}": random.random((1000, 512)) for i in range(3)}
    quantities = [page.Quantity(key, f"v{key[1]}", kind="gate") for key in values]
    track = page.Track("large", "own", quantities, values)
    html = page.page(random.choice(list("abcd (x)"), 1000).tolist(), [track], "large")
    assert len(html) < 7e6
    shown = opened(html)
    for key in ("ArrowRight", "ArrowDown"):
        shown.keyboard.press(key)
        frame(shown)
        browser.start_tracing(page=shown, categories=["toplevel", "disabled-by-default-devtools.timeline"])
        for _ in range(10):
            shown.keyboard.press(key)
            frame(shown)
        events = json.loads(browser.stop_tracing())["traceEvents"]
        (thread,) = {
            (e["pid"], e["tid"]) for e in events if e["name"] == "thread_name" and e["args"]["name"] == "CrRendererMain"
        }
        # The processor's time: that of waiting for a core is not the page's.
        tasks = [e for e in events if e["name"] == "RunTask" and (e["pid"], e["tid"]) == thread]
        assert tasks
        assert sum(e.get("tdur", 0) for e in tasks) / 10 < 50_000, key


@pytest.mark.parametrize("steps", [1, 2])
def test_the_shortest_texts(opened, steps):
    shown = opened(gatewise.inspect.explore(model(hidden=2), TEXT[:steps]))
    shown.keyboard.press("End")
    assert cursor(shown)[0] == steps - 1
    assert "The text ends here" in shown.locator(".then").inner_text()


def test_steps_without_values_and_labels_that_are_no_characters(opened):
    layer = gatewise.GRU(3, 4)

    class Padded(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = layer

        def forward(self, x):
            return self.rnn(x, lengths=torch.tensor([4, 2]))

    shown = opened(gatewise.inspect.explore(Padded(), torch.randn(4, 2, 3), sample=1))
    assert not shown.locator("#search").is_visible()
    shown.keyboard.press("Home")
    assert len(cursor(shown)[2]) == 4
    shown.keyboard.press("End")
    frame(shown)
    assert shown.locator(".readout").inner_text().count("—") == 4
