"""The report in a real browser: it opens without a network, runs nothing, and fits wide and narrow windows."""

import html
import json
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from chiasma.experiment.report.render import render, write_report
from tests.experiment.sample_results import full_results

pytestmark = pytest.mark.slow

QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-domain-reliability",
    "--disable-sync",
    "--no-pings",
    "--disable-features=OptimizationHints,MediaRouter,AutofillServerCommunication,CertificateTransparencyComponentUpdater",
    "--enable-logging=stderr",
)
MEASURE = """
<script>
addEventListener("load", () => {
  const frames = [...document.querySelectorAll("iframe")].map(frame => frame.contentDocument);
  const found = (frames.length ? frames : [document]).map(page => ({
    needed: page.documentElement.scrollWidth,
    given: page.documentElement.clientWidth,
    dark: matchMedia("(prefers-color-scheme: dark)").matches,
    charts: [...page.querySelectorAll("svg")].map(chart => chart.getBoundingClientRect().width),
    small: Math.min(...[...page.querySelectorAll("svg text")].map(text => text.getBoundingClientRect().height)),
    wide: [...page.querySelectorAll(".scroll")].filter(box => box.scrollWidth > box.clientWidth)
      .every(box => getComputedStyle(box).overflowX === "auto" && box.tabIndex === 0),
    focusable: [...page.querySelectorAll("a[href], summary, [tabindex]")].every(item => item.tabIndex >= 0),
    drawn: getComputedStyle(page.querySelector("svg text")).fontFamily,
  }));
  const out = document.createElement("pre");
  out.id = "measured";
  out.textContent = JSON.stringify(found);
  document.body.append(out);
});
</script>
"""


class Gate:
    """Stands where the proxy would be: lets nothing through and remembers who asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @property
    def from_pages(self) -> list[str]:
        """Return the requests that are not the browser's own to its maker."""
        return [line for line in self.asked if not re.search(r"[./](google|googleapis|gvt1)\.com", line)]

    @property
    def address(self) -> str:
        host, port = self._socket.getsockname()
        return f"http://{host}:{port}"

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                self.asked.append(connection.recv(2000).decode(errors="replace").split("\r\n")[0])


@dataclass(frozen=True)
class Browser:
    """Chromium without a network."""

    program: str
    gate: Gate
    folder: Path

    def run(self, page: Path, *options: str) -> tuple[str, str]:
        """Open a page and return the standard output and the log."""
        profile = f"--user-data-dir={self.folder / 'profile'}"
        command = [self.program, *QUIET, profile, f"--proxy-server={self.gate.address}", *options, page.as_uri()]
        result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        return result.stdout, result.stderr

    def picture(self, page: Path, *options: str, width: int, height: int = 1600) -> np.ndarray:
        """Return a screenshot as ``H W 3``."""
        path = self.folder / "picture.png"
        self.run(page, f"--screenshot={path}", f"--window-size={width},{height}", *options)
        with Image.open(path) as picture:
            return np.asarray(picture.convert("RGB"))

    def measure(self, text: str, *options: str) -> list[dict[str, object]]:
        """Return what a script finds in a copy of the page that, unlike the page, allows scripts."""
        page = self.folder / "measured.html"
        page.write_text(text)
        dom, _ = self.run(page, "--dump-dom", *options)
        found = re.search('<pre id="measured">(.*?)</pre>', dom, flags=re.DOTALL)
        assert found is not None
        return json.loads(html.unescape(found[1]))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no chromium is installed, so the report cannot be looked at")
    gate = Gate()
    yield Browser(program, gate, tmp_path_factory.mktemp("browser"))
    gate.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(full_results(), tmp_path_factory.mktemp("run") / "report.html")


@pytest.fixture(scope="module")
def open_copy(report: Path) -> str:
    """Return the page without its policy, so that a measuring script may run in it."""
    return re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", report.read_text())


def test_the_page_opens_without_requests_or_complaints(browser: Browser, report: Path):
    dom, log = browser.run(report, "--dump-dom")
    assert "How good is it, and how sure are we?" in dom
    assert dom.count("<svg") == 4
    assert dom.count("<section") == 7
    assert "CONSOLE" not in log
    assert browser.gate.from_pages == []


def test_a_page_that_asks_for_something_would_be_seen(browser: Browser, tmp_path: Path):
    page = tmp_path / "asking.html"
    page.write_text('<!doctype html><img src="http://outside.example/pixel.png">')
    browser.run(page, "--dump-dom")
    assert any("outside.example" in line for line in browser.gate.from_pages)


def test_the_policy_stops_a_script_that_got_in(browser: Browser, report: Path, tmp_path: Path):
    page = tmp_path / "tampered.html"
    page.write_text(report.read_text().replace("</body>", "<script>document.body.id = 'run'</script></body>"))
    dom, log = browser.run(page, "--dump-dom")
    assert '<body id="run">' not in dom
    assert "Content Security Policy" in log


def test_what_users_wrote_is_text_in_the_browser_too(browser: Browser, tmp_path: Path):
    hostile = "</style></script><script>document.body.id='run'</script><img src=x onerror=\"document.body.id='run'\">"
    text = render(full_results(source=hostile, notes=(hostile,), rejections={hostile: 1}))
    page = tmp_path / "hostile.html"
    page.write_text(re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text))
    dom, log = browser.run(page, "--dump-dom")
    assert '<body id="run">' not in dom
    assert "CONSOLE" not in log


def test_a_wide_window_shows_everything_without_sideways_scrolling(browser: Browser, open_copy: str):
    (found,) = browser.measure(open_copy.replace("</body>", f"{MEASURE}</body>"), "--window-size=1280,900")
    assert found["needed"] == found["given"] == 1280
    assert found["focusable"]
    assert all(400 < width < 700 for width in found["charts"])  # type: ignore[attr-defined]
    assert "DejaVu" not in str(found["drawn"])


@pytest.mark.parametrize("width", [320, 390, 768])
def test_a_narrow_window_never_scrolls_sideways(browser: Browser, open_copy: str, width: int):
    frame = f'<iframe width="{width}" height="700" style="border:0" srcdoc="{html.escape(open_copy)}"></iframe>'
    (found,) = browser.measure(f"<!doctype html><body>{frame}{MEASURE}</body>")
    assert found["needed"] == found["given"] == width
    assert found["wide"]
    assert float(str(found["small"])) >= 7


def test_the_page_is_dark_where_the_system_is(browser: Browser, report: Path):
    light = browser.picture(report, width=1000)
    dark = browser.picture(report, "--blink-settings=preferredColorScheme=0", width=1000)
    assert light.mean() > 200
    assert dark.mean() < 70
    assert dark.max() > 200
    assert light.min() < 60
