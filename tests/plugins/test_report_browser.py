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

from smolrecipe_report.page import write_report
from smolrecipe_report.reading import read_run

BROWSER = next((found for name in ("chromium", "google-chrome", "chrome") if (found := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine (apt-get install chromium)")

MEASURE = """
<iframe id="page" src="index.html" style="border:0;width:%dpx;height:900px"></iframe>
<script>
addEventListener("load", () => {
  const inside = document.getElementById("page").contentDocument;
  const seen = (element) => element.getBoundingClientRect().width > 0;
  const boxes = [...inside.querySelectorAll(".wide")];
  document.title = JSON.stringify({
    too_wide: inside.documentElement.scrollWidth - inside.documentElement.clientWidth,
    cut: boxes.filter((box) => box.scrollWidth > box.clientWidth && box.tabIndex !== 0).length,
    unnamed: boxes.filter((box) => !box.getAttribute("aria-label")).length,
    figures: [...inside.querySelectorAll("svg")].filter(seen).length,
    smallest: Math.min(...[...inside.querySelectorAll("td,th,p,figcaption,summary")].map(
      (element) => parseFloat(getComputedStyle(element).fontSize))),
    ink: getComputedStyle(inside.body).color,
    paper: getComputedStyle(inside.body).backgroundColor,
  });
});
</script>
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = write_run(tmp_path_factory.mktemp("runs"))
    return write_report(run, read_run(run), tmp_path_factory.mktemp("report"))


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
def test_it_is_legible_at_any_width(page: Path, width: int, tmp_path: Path) -> None:
    seen = looked_at(page, width, dark=False, tmp_path=tmp_path)
    assert seen["too_wide"] == 0, "the page scrolls sideways"
    assert (seen["cut"], seen["unnamed"]) == (0, 0)
    assert seen["figures"] == len(re.findall("<svg", page.read_text())) > 3
    assert isinstance(seen["smallest"], float | int) and seen["smallest"] >= 14
    assert (seen["ink"], seen["paper"]) == ("rgb(28, 28, 28)", "rgb(255, 255, 255)")


def test_it_is_dark_where_that_is_preferred(page: Path, tmp_path: Path) -> None:
    seen = looked_at(page, 1280, dark=True, tmp_path=tmp_path)
    assert (seen["ink"], seen["paper"]) == ("rgb(232, 232, 232)", "rgb(22, 24, 27)")
