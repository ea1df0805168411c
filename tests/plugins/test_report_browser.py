"""The report in a browser: nothing asked of the network, no error, no sideways scrolling, in light and dark."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from report_runs import write_run

pytest.importorskip("matplotlib", reason="the report needs matplotlib: pip install 'smolrecipe[report]'")

from smolrecipe_report.last_run import last_run
from smolrecipe_report.page import write_report

BROWSER = next((found for name in ("chromium", "google-chrome", "chrome") if (found := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine (apt-get install chromium)")

MEASURE = """
<iframe id="page" src="index.html" style="border:0;width:%dpx;height:900px"></iframe>
<script>
const channels = (colour) => (colour.match(/[\\d.]+/g) || []).map(Number);
const light = (colour) => {
  const [red, green, blue] = channels(colour).slice(0, 3).map((value) => value / 255)
    .map((value) => value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
};
const ground = (element, style) => {
  for (; element; element = element.parentElement) {
    const colour = style(element).backgroundColor;
    if (channels(colour)[3] !== 0) return colour;
  }
  return "rgb(255, 255, 255)";
};
const contrast = (element, style) => {
  const [one, other] = [light(style(element).color), light(ground(element, style))];
  return (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
};
addEventListener("load", () => {
  const frame = document.getElementById("page").contentWindow, inside = frame.document;
  const style = (element) => frame.getComputedStyle(element);
  const seen = (element) => element.getBoundingClientRect().width > 0;
  const too_wide = () => inside.documentElement.scrollWidth - inside.documentElement.clientWidth;
  const folded = too_wide();
  inside.querySelectorAll("details").forEach((details) => { details.open = true; });
  const boxes = [...inside.querySelectorAll("main *")].filter((box) =>
    ["auto", "scroll"].includes(style(box).overflowX) || ["auto", "scroll"].includes(style(box).overflowY));
  const stops = [...inside.querySelectorAll("a[href],summary,[tabindex='0']")].filter(seen);
  const focused = stops.filter((stop) => {
    stop.focus({focusVisible: true, preventScroll: true});
    return inside.activeElement === stop && style(stop).outlineStyle === "solid";
  });
  const written = [...inside.querySelectorAll("main *")].filter((element) => !element.closest("svg") &&
    [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim()));
  document.title = JSON.stringify({
    too_wide: Math.max(folded, too_wide()),
    unreachable: boxes.filter((box) => box.tabIndex !== 0).length,
    unnamed: boxes.filter((box) => !box.getAttribute("aria-label")).length,
    stops: stops.length,
    unfocused: stops.filter((stop) => !focused.includes(stop)).map((stop) => stop.outerHTML.slice(0, 80)),
    dead_links: [...inside.querySelectorAll("a")].filter((a) => !inside.querySelector(a.getAttribute("href"))).length,
    figures: [...inside.querySelectorAll("svg")].filter(seen).length,
    smallest: Math.min(...written.map((element) => parseFloat(style(element).fontSize)),
      ...[...inside.querySelectorAll(".wide svg text")].map((text) =>
        parseFloat(style(text).fontSize) * Math.hypot(text.getScreenCTM().a, text.getScreenCTM().b))),
    palest: Math.min(...written.map((element) => contrast(element, style))),
    ink: style(inside.body).color,
    paper: style(inside.body).backgroundColor,
  });
});
</script>
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = write_run(tmp_path_factory.mktemp("runs"))
    return write_report(run, *last_run(run), tmp_path_factory.mktemp("report"))


def looked_at(page: Path, width: int, *, dark: bool, tmp_path: Path) -> dict[str, object]:
    """What a browser makes of the page in a frame of this width."""
    assert BROWSER is not None
    frame = page.with_name(f"frame-{width}.html")
    frame.write_text(MEASURE % width)
    command = [
        BROWSER,
        *(
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--allow-file-access-from-files",
            "--virtual-time-budget=4000",
        ),
        *(f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--dump-dom"),
        *(["--force-dark-mode", "--blink-settings=preferredColorScheme=0"] if dark else []),
        frame.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    told = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert told == []
    title = re.search(r"<title>(.*?)</title>", done.stdout)
    assert title is not None, done.stdout[:500]
    found: dict[str, object] = json.loads(title[1].replace("&quot;", '"'))
    return found


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_it_is_legible_and_reached_by_keyboard(page: Path, width: int, dark: bool, tmp_path: Path) -> None:
    seen = looked_at(page, width, dark=dark, tmp_path=tmp_path)
    assert seen["too_wide"] == 0, "the page scrolls sideways"
    assert (seen["unreachable"], seen["unnamed"], seen["dead_links"], seen["unfocused"]) == (0, 0, 0, [])
    assert isinstance(seen["stops"], int) and seen["stops"] > 20
    assert seen["figures"] == len(re.findall("<svg", page.read_text())) > 3
    assert isinstance(seen["smallest"], float | int) and seen["smallest"] >= 11.5
    assert isinstance(seen["palest"], float | int) and seen["palest"] >= 4.5  # WCAG 2, AA
    colours = ("rgb(232, 232, 232)", "rgb(22, 24, 27)") if dark else ("rgb(28, 28, 28)", "rgb(255, 255, 255)")
    assert (seen["ink"], seen["paper"]) == colours
