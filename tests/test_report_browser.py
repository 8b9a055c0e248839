"""The report in a real browser: drawn, searchable, quiet, and safe with hostile names."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from browser import Page, opened, running_browser
from jpegs import encode, photo
from outputs import Made, rewrite, write_output

from jobs.report import report
from jobs.report_settings import ReportSettings

HOSTILE = "<img src=x onerror=alert(1)>.jpg"
SCRIPT = "</script><script>alert(2)</script>"


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with every section, real pictures, and names that would like to be scripts."""
    folder = tmp_path_factory.mktemp("report")
    jpeg = encode(photo(90, 120), quality=20)
    (folder / HOSTILE).write_bytes(jpeg)
    now = write_output(folder / "now", Made(images=600, images_per_shard=200, bad_share=0.05))
    before = write_output(folder / "before", Made(images=600, images_per_shard=200, seed=5))

    def name(row: dict[str, Any]) -> None:
        if row["status"] == "ok":
            row["uri"], row["num_bytes"] = f"{folder}/{HOSTILE}", len(jpeg)
            row["label_name"] = f"{SCRIPT} {row['label']}"
            row["drift_angle_deg"] += 100
        else:
            row["error"] = f"no '{row['uri']}' {SCRIPT}"

    rewrite(now, 0, name)
    made = report(
        ReportSettings(
            output=str(now.path), against=str(before.path), html=str(folder / "page.html")
        )
    )
    return made.path


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with running_browser() as found:
        yield found


@pytest.fixture(scope="module")
def shown(browser: Any, page_file: Path) -> Iterator[Page]:
    with opened(browser, page_file) as page:
        yield page


def test_every_chart_is_drawn_and_the_console_is_quiet(shown: Page) -> None:
    charts = shown.page.query_selector_all(".chart")
    assert len(charts) >= 12
    for chart in charts:
        assert chart.get_attribute("role") == "img"
        size = chart.query_selector("svg").bounding_box()
        assert size["width"] > 300
        assert size["height"] > 100
        assert len(chart.query_selector_all("svg path, svg rect")) > 5
    assert shown.complaints == []


def test_nothing_is_fetched(shown: Page, page_file: Path) -> None:
    assert [url for url in shown.requests if not url.startswith("data:")] == [page_file.as_uri()]


def test_names_are_text(shown: Page) -> None:
    text = shown.page.inner_text("body")
    assert HOSTILE in text
    assert SCRIPT in text
    assert shown.page.query_selector_all("img[src='x']") == []
    assert shown.page.evaluate("document.scripts.length") == 3


def test_the_policy_bars_what_is_not_the_pages_own(shown: Page) -> None:
    ran = shown.page.evaluate(
        """() => {
            const script = document.createElement("script");
            script.textContent = "window.intruder = true";
            document.body.append(script);
            script.remove();  // other tests count them
            return window.intruder === true;
        }"""
    )
    assert not ran
    shown.complaints.clear()  # the policy has said so


def test_pictures_are_shown(shown: Page) -> None:
    sizes = shown.page.evaluate(
        "[...document.images].map(i => [i.complete && i.naturalWidth, i.alt.length])"
    )
    assert len(sizes) >= 24
    assert all(width == 120 and alt > 5 for width, alt in sizes)


def test_the_search_finds_classes(shown: Page) -> None:
    def visible() -> list[str]:
        found: list[str] = shown.page.evaluate(
            "[...document.querySelectorAll('table.searched tbody tr')].filter(r => !r.hidden)"
            ".map(r => r.cells[0].textContent)"
        )
        return found

    everything = visible()
    box = shown.page.get_by_label("Search the classes")
    box.focus()
    shown.page.keyboard.type("SCRIPT 7")
    assert 0 < len(visible()) < len(everything)
    assert all("7" in number for number in visible())
    assert f"{len(visible())} of {len(everything)}" in shown.page.inner_text("[role=status]")
    box.fill("nothing like it")
    assert visible() == []
    box.fill("")
    assert visible() == everything


def test_columns_sort_by_the_keyboard(shown: Page) -> None:
    header = shown.page.locator("table.searched th", has_text="images")
    header.locator("button").focus()
    for direction in ("descending", "ascending"):
        shown.page.keyboard.press("Enter")
        assert header.get_attribute("aria-sort") == direction
        counts = shown.page.evaluate(
            "[...document.querySelectorAll('table.searched tbody tr')]"
            ".map(r => +r.cells[2].dataset.value)"
        )
        assert counts == sorted(counts, reverse=direction == "descending")
    assert shown.complaints == []


def test_a_value_is_told_under_the_pointer(shown: Page) -> None:
    bar = shown.page.locator("#chart-quality svg .mark-rect path").nth(74)
    # The page may still be laid out or scrolled when the pointer comes: it comes again then.
    for _ in range(20):
        bar.evaluate("bar => bar.scrollIntoView({block: 'center', behavior: 'instant'})")
        shown.page.mouse.move(0, 0)
        bar.hover(force=True)
        with suppress(shown.too_late):
            shown.page.wait_for_selector("#vg-tooltip-element.visible", timeout=2000)
            break
    assert "75" in shown.page.inner_text("#vg-tooltip-element")


@pytest.mark.parametrize("dark", [False, True])
def test_text_can_be_read_on_its_ground(browser: Any, page_file: Path, *, dark: bool) -> None:
    """WCAG AA: a contrast of 4.5."""

    def luminance(colour: str) -> float:
        values = [int(part) / 255 for part in colour[4:-1].split(",")]
        linear = [v / 12.92 if v <= 0.03928 else ((v + 0.055) / 1.055) ** 2.4 for v in values]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    with opened(browser, page_file, dark=dark) as shown:
        colours = shown.page.evaluate(
            """() => {
                const probe = document.body.appendChild(document.createElement("i"));
                const read = (name) => {
                    probe.style.color = `var(--${name})`;
                    return getComputedStyle(probe).color;
                };
                const names = ["text", "muted", "accent-text", "warn", "bad", "bg", "card"];
                return Object.fromEntries(names.map((name) => [name, read(name)]));
            }"""
        )
        assert (luminance(colours["bg"]) < 0.1) is dark
        for ground in ("bg", "card"):
            for name in ("text", "muted", "accent-text", "warn", "bad"):
                pair = sorted((luminance(colours[name]), luminance(colours[ground])))
                assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 4.5, (name, ground)
        axis = shown.page.locator("#chart-quality svg text").first
        assert axis.evaluate("e => getComputedStyle(e).fill") == colours["muted"]


def test_on_a_phone_nothing_sticks_out(browser: Any, page_file: Path) -> None:
    with opened(browser, page_file, width=390, is_mobile=True, has_touch=True) as shown:
        assert shown.page.evaluate("document.documentElement.scrollWidth") == 390
        widths = shown.page.evaluate(
            "[...document.querySelectorAll('.chart svg')].map(s => s.getBoundingClientRect().width)"
        )
        assert max(widths) <= 370
        cut_off = shown.page.evaluate(
            """() => [...document.querySelectorAll('.chart svg')].flatMap(svg => {
                const right = svg.getBoundingClientRect().right;
                return [...svg.querySelectorAll('text')].filter(
                    text => text.getBoundingClientRect().right > right + 1
                ).map(text => text.textContent);
            })"""
        )
        assert cut_off == []
        assert shown.complaints == []


def test_the_keyboard_reaches_everything(browser: Any, page_file: Path) -> None:
    with opened(browser, page_file) as shown:
        shown.page.keyboard.press("Tab")
        focused = "document.activeElement.textContent"
        assert shown.page.evaluate(focused) == "Skip to the content"
        shown.page.keyboard.press("Tab")
        assert shown.page.evaluate(focused) == "Summary"
        # What scrolls can be scrolled by the keyboard, and says what it is.
        regions = shown.page.query_selector_all(".scroll")
        assert len(regions) > 10
        assert all(region.get_attribute("tabindex") == "0" for region in regions)
        assert all(region.get_attribute("aria-label") for region in regions)


def test_without_scripts_the_figures_are_there(browser: Any, page_file: Path) -> None:
    plain = browser.new_context(java_script_enabled=False).new_page()
    plain.goto(page_file.as_uri())
    assert "600" in plain.inner_text("#summary")
    plain.locator("figure summary").first.click()
    assert plain.locator("figure details table").first.is_visible()
    assert not plain.locator(".find").is_visible()


def test_paper(browser: Any, page_file: Path) -> None:
    with opened(browser, page_file, dark=True) as shown:
        shown.page.emulate_media(media="print")
        ground = shown.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert ground == "rgb(255, 255, 255)"
        assert not shown.page.locator("nav").is_visible()
        assert shown.page.pdf(format="A4").startswith(b"%PDF")
