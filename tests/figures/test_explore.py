"""If these fail, the page to play with shows something else than the predictor says, or cannot be used.

They need a browser: playwright, of the extra `browser`, and its Chromium or one that is installed.
"""

import random
import re
import shutil
from functools import partial

import pytest

from alexnet2gpu.config.load import load_config
from alexnet2gpu.config.network import trace
from alexnet2gpu.figures.explore import write_page
from alexnet2gpu.memory import explore
from alexnet2gpu.memory.tables import place_texts
from alexnet2gpu.model import profile
from alexnet2gpu.model.profile import Profile
from alexnet2gpu.ranks.cost import Lines, sent
from alexnet2gpu.ranks.plans import Setting
from bench.results import REPOSITORY

sync_api = pytest.importorskip("playwright.sync_api", reason="the page is tried where playwright is")


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as play:
        try:
            started = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        except sync_api.Error:
            pytest.skip("there is no Chromium")
        yield started
        started.close()


@pytest.fixture
def page(browser):
    """A page that has logged nothing and asked nobody for anything when the test ends."""
    opened, said = browser.new_page(), []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("request", lambda request: said.append(request.url) if "file:" not in request.url else None)
    yield opened
    opened.close()
    assert said == []


class Alone:
    """Instead of a pool of processes."""

    def __init__(self, *_):
        self.map = map

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


LEVERS = explore.levers


def made_up(network):
    """A profile of a network, in which every layer takes longer the more it gives."""
    shapes = {row.name: (list(row.reads), list(row.gives)) for row in trace(network)}
    ends = {f"join{n}": (None, None) for n in range(1, 1 + len(network.stages))} | {"loss": (None, None)}
    layers = {}
    for number, (name, (reads, gives)) in enumerate((shapes | ends).items(), start=1):
        points = [[8, 1e-4 * number], [32, 3e-4 * number], [128, 9e-4 * number]]
        layers[name] = {"reads": reads, "gives": gives, "forward": points, "backward": points}
    links = {"inside": {"bandwidth": 1e9, "alpha": 1e-4, "handling": 1e-10}}
    return Profile("a machine", "made up", 1, 2, "float32", 1e-9, layers, (0.9, 1.2), links)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A page of quick.yaml in one precision, on two ranks at most."""
    network = "configs/quick.yaml"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(explore, "ProcessPoolExecutor", Alone)
        patch.setattr(explore, "RANKS", (1, 2))
        patch.setattr(explore, "TOWERS", ())
        patch.setattr(explore, "PRECISIONS", ("float32",))
        patch.setattr(explore, "DEVICES", ("cpu",))
        patch.setattr(explore, "modes_of", lambda config: ["single", "split", "ddp", "hybrid"])
        patch.setattr(explore, "levers", lambda config: dict([*LEVERS(config).items()][:2]))
        machine = made_up(load_config(network).model)
        found = explore.explored(partial(load_config, network), "quick", [machine])
    written = tmp_path_factory.mktemp("explore") / "explore.html"
    write_page(found | {"command": "launch/memory.py", "torch": "2"}, written)
    return written


def opened(page, file, state=""):
    page.goto(f"file://{file}#{state}")
    page.wait_for_selector("body[data-ready]")
    return page


def rows(page, state):
    """What the page shows in a state, as plain data."""
    plain = "({...row, places: 0, pieces: 0, parts: row.parts && Object.fromEntries(row.parts)})"
    return page.evaluate(f"state => view(state).map(row => {plain})", state)


def agree(page, network, profiles, count, seed):
    """So many random states, in each one of its modes: bytes as predicted, times as printed."""
    draw = random.Random(seed)
    known = page.evaluate("({memory: Object.keys(data.memory), times: data.times})")
    divided = 0
    while divided < count:
        key = draw.choice(known["memory"])
        towers, precision, lever, device = key.split("|")
        of = known["times"].get(f"{towers}|{precision}|{device}")
        link, batch = draw.choice(of["links"]) if of else "", round(4096 ** draw.random())
        state = {"towers": int(towers), "precision": precision, "lever": lever, "device": device}
        shown = rows(page, state | {"ranks": draw.choice((2, 4, 8)), "batch": batch, "link": link})
        row = draw.choice(shown)
        settings = [f"train.precision={precision}", f"model.towers={towers}"]
        config = load_config(network, [*settings, *LEVERS(load_config(network))[lever]])
        able = {(case.mode, case.number): case for case in explore.cases(config)}
        case = able.get((row["mode"], row["ranks"]))
        if "mistake" in row:
            assert case is None or batch % case.parts, (key, row)
            continue
        case = case.with_batch(batch)
        divided += 1
        expected, element = case.predict(device == "gpu"), 4 if precision == "float32" else 2
        assert (row["peak"], row["parts"]) == (expected.peak, expected.worst.parts), (key, batch, row["mode"])
        place = re.split(r", before| of tower|(?<= tower) \d", row["worst"])[0]
        assert place == place_texts([expected.worst.place])[0].split(" (")[0]
        if row["sent"] is not None:
            assert row["sent"] == pytest.approx(sent(case.mode, config.model, case.number, batch, element))
        if row["time"]:
            (machine,) = [
                one for one in profiles if one.device == of["device"] and one.precision == precision
            ]
            line = Lines(explore.links_of(machine)[link])
            plan = Setting(config.model, machine, line, case.number, element).plan(case.mode, batch)
            assert page.evaluate("row => cells(row).slice(-3)", row) == [
                cell.replace("-", "–") for cell in plan.cells
            ]


def test_what_is_shown_is_what_is_predicted(page, file):
    network = "configs/quick.yaml"
    agree(opened(page, file), network, [made_up(load_config(network).model)], 12, 2012)


@pytest.mark.slow
def test_the_page_of_alexnet_is_what_is_predicted(page):
    """Six minutes: a state in between takes the predictor seconds."""
    profiles = [profile.read(str(file)) for file in sorted((REPOSITORY / "configs/profiles").glob("*.json"))]
    agree(opened(page, REPOSITORY / "docs" / "explore.html"), "configs/alexnet.yaml", profiles, 200, 2014)


def test_the_state_is_in_the_address_and_every_control_changes_what_is_shown(page, file):
    opened(page, file, "batch=96&mode=split")
    assert page.input_value("#batch") == "96" and page.input_value("#mode") == "split"
    before = page.inner_text("#said")
    for control, value in {
        "mode": "hybrid",
        "lever": "4 passes over parts of the batch",
        "budget": "3",
    }.items():
        page.select_option(f"#{control}", value)
        assert f"{control}={value.replace(' ', '+')}" in page.url
    page.fill("#batch", "128")
    page.press("#batch", "Enter")
    assert "batch=128" in page.url and page.inner_text("#said") != before
    page.focus("#slider")
    page.keyboard.press("ArrowRight")
    assert "batch=128" not in page.url
    page.get_by_role("button", name="2012").click()
    assert "mode=split" in page.url and "batch=64" in page.url


def test_what_cannot_be_is_said_and_not_left_out(page):
    """On the page that is kept, which has levers, links and four towers, too."""
    said = {
        "mode=split&ranks=4": "split: 2 towers need 2 ranks. Of what fits",
        "mode=ddp&batch=127": "ddp: 127 is not divisible by 2. Of what fits 3,072.0 MiB (ddp, grid, hybrid,",
        "mode=ddp&batch=4096": "largest batch is 1,066. Nothing fits 3,072.0 MiB: fsdp, which holds",
        "mode=ddp&batch=128": "is 74 % of it",
        "mode=split&lever=computing+convolutions+twice": "as much, since nothing is saved at the peak",
    }
    for state, words in said.items():
        opened(page, REPOSITORY / "docs" / "explore.html", state)
        page.reload()
        page.wait_for_selector("body[data-ready]")
        assert words in page.inner_text("#said"), state
        assert page.inner_text("#left") == ""
    page.select_option("#towers", "4")
    assert "Hold less by: nothing" in page.inner_text("#left")


def test_places_are_told_by_keyboard(page, file):
    opened(page, file, "mode=single")
    page.focus("#steps")
    page.keyboard.press("Home")
    first = page.inner_text("#place")
    page.keyboard.press("ArrowRight")
    assert first.startswith("start") and page.inner_text("#place") != first


def test_table_and_picture_are_downloaded(page, file, tmp_path):
    opened(page, file)
    for button, wanted in (("Table as CSV", "hybrid"), ("Picture as SVG", "<svg")):
        with page.expect_download() as coming:
            page.get_by_role("button", name=button).click()
        coming.value.save_as(tmp_path / "file")
        assert wanted in (tmp_path / "file").read_text()


def test_ten_questions_have_an_answer_each(page, file):
    opened(page, file)
    for number in range(1, 11):
        assert page.inner_text("#question").startswith(f"{number} of 10.")
        choices = page.locator("[data-choice]")
        assert choices.count() >= 3
        choices.first.click()
        assert page.locator("#guess .right").count() == 1
        page.get_by_role("button", name="Next" if number < 10 else "Once more").click()


@pytest.mark.parametrize("width", [380, 800, 1600])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_the_window_and_all_can_be_read(page, file, width, scheme):
    """By axe-core, where it is."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=scheme)
    opened(page, file)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    serious = [
        v for v in axe.Axe().run(page).response["violations"] if v["impact"] in ("serious", "critical")
    ]
    assert serious == []
