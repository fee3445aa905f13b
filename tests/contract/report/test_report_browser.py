"""The report in a real browser (chromium, headless), driven through its DevTools protocol.

`PREPO_CHROMIUM` names the browser; otherwise `chromium`, `chromium-browser` or `google-chrome` on the PATH is used.
"""

import json
import os
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from report_pages import make_run, write_lines

from recipe.prepo.tools.report import write_report

pytestmark = pytest.mark.slow

PHONE, DESKTOP = (375, 800), (1280, 900)
PATIENCE_S = 60.0
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
    "--remote-debugging-port=0",
]  # fmt: skip
LONG = "a-name-without-any-place-to-break-" * 8


class Browser:
    """One tab: loads a file at a size, evaluates expressions, and records requests and console messages."""

    def __init__(self, socket: Any) -> None:
        self._socket, self._next = socket, 0
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self._loaded = False
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict:
        self._next += 1
        self._socket.send(json.dumps({"id": self._next, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(timeout=PATIENCE_S))
            if message.get("id") == self._next:
                assert "error" not in message, message
                return message["result"]
            self._note(message)

    def _note(self, message: dict) -> None:
        method, data = message.get("method"), message.get("params", {})
        if method == "Network.requestWillBeSent":
            self.requests.append(data["request"]["url"])
        elif method in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
            self.complaints.append(json.dumps(data)[:500])
        elif method == "Page.loadEventFired":
            self._loaded = True

    def load(self, path: Path, size: tuple[int, int], *, scheme: str = "light", runs_script: bool = True) -> None:
        width, height = size
        self.call("Emulation.setScriptExecutionDisabled", value=not runs_script)
        self.requests, self.complaints, self._loaded = [], [], False
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
                  mobile=width < 600)  # fmt: skip
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.call("Page.navigate", url=path.resolve().as_uri())
        while not self._loaded:
            self._note(json.loads(self._socket.recv(timeout=PATIENCE_S)))
        self.value("document.querySelectorAll('details').forEach(part => { part.open = true })")

    def value(self, expression: str) -> Any:
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    names = (os.environ.get("PREPO_CHROMIUM"), "chromium", "chromium-browser", "google-chrome")
    command = next((found for name in names if name and (found := shutil.which(name))), None)
    if command is None:
        pytest.skip("no chromium on the PATH or in PREPO_CHROMIUM: the report is not tested in a browser")
    client = pytest.importorskip(
        "websockets.sync.client", reason="no websockets package: the report is not tested in a browser"
    )
    profile = tmp_path_factory.mktemp("profile")
    process = subprocess.Popen(
        [command, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        port_file, end = profile / "DevToolsActivePort", time.monotonic() + PATIENCE_S
        while not (port_file.exists() and "\n" in port_file.read_text()):
            assert process.poll() is None and time.monotonic() < end, f"{command} did not start"
            time.sleep(0.05)
        port = port_file.read_text().split()[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json") as answer:
            tab = next(entry for entry in json.load(answer) if entry["type"] == "page")
        with client.connect(tab["webSocketDebuggerUrl"], max_size=None) as socket:
            yield Browser(socket)
    finally:
        process.terminate()
        process.wait(timeout=30)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The page of one run, with hostile and long texts in it, and that of two methods with two seeds each."""
    root = tmp_path_factory.mktemp("browser")
    single = make_run(root / "one", steps=12, planned=12, sets=("openai/gsm8k", LONG))
    texts = ["<script>console.error('ran')</script>", '"><img src=http://example.com/x.png>', "y" * 10**6, LONG]
    write_lines(
        single / "rollouts" / "1.jsonl",
        [{"input": text, "output": text, "gts": "1", "score": float(at % 2)} for at, text in enumerate(texts)],
    )
    runs = [
        make_run(root / f"{name}-seed{seed}", steps=8, planned=8, seed=seed, rule=rule, lift=lift + 0.01 * seed)
        for name, rule, lift in (("prepo", "ppl_schedule", 0.04), ("random", "uniform", 0.02))
        for seed in (0, 1)
    ]
    return {"single": write_report([single]), "comparison": write_report(runs, root / "comparison")}


@pytest.mark.parametrize("kind", ["single", "comparison"])
@pytest.mark.parametrize(("scheme", "size"), [("light", PHONE), ("dark", DESKTOP)], ids=["phone", "desktop"])
def test_page_fits_shows_its_pictures_and_requests_nothing(
    browser: Browser, pages: dict[str, Path], kind: str, scheme: str, size: tuple[int, int]
) -> None:
    browser.load(pages[kind], size, scheme=scheme)
    width = size[0]
    assert browser.value("innerWidth") == width
    assert browser.value("document.documentElement.scrollWidth") <= width, "the page scrolls sideways"
    wide = "[...document.querySelectorAll('body *')].filter(part => !part.closest('.scroll') && "
    wide += f"part.getBoundingClientRect().right > {width} + 1).map(part => part.outerHTML.slice(0, 80))"
    assert browser.value(wide) == []
    charts = "[...document.querySelectorAll('figure:not([hidden]) .chart > svg')]"
    drawn = browser.value(f"{charts}.map(chart => [chart.clientWidth, chart.querySelectorAll('path').length])")
    assert len(drawn) == (7 if kind == "single" else 8)
    assert all(width > 250 and paths >= 6 for width, paths in drawn)
    back = browser.value("getComputedStyle(document.body).backgroundColor")
    levels = [int(part) for part in back[back.index("(") + 1 : -1].split(",")[:3]]
    assert max(levels) < 64 if scheme == "dark" else min(levels) > 240
    assert [url for url in browser.requests if not url.startswith(("file://", "data:image/png"))] == []
    assert browser.complaints == [] and browser.value("document.scripts.length") == 1
    if kind == "single":  # scripts in texts are text
        text = browser.value("document.body.innerText")
        assert "<script>console.error('ran')</script>" in text and '"><img src=http://example.com/x.png>' in text


def test_page_is_whole_without_its_script(browser: Browser, pages: dict[str, Path]) -> None:
    browser.load(pages["comparison"], DESKTOP, runs_script=False)
    images = browser.value("[...document.images].map(image => [image.complete, image.naturalWidth, image.alt.length])")
    assert len(images) == 10
    assert all(complete and natural > 500 and alt > 20 for complete, natural, alt in images)


def test_figures_answer_to_the_mouse(browser: Browser, pages: dict[str, Path]) -> None:
    browser.load(pages["comparison"], DESKTOP)
    figure = "document.querySelector('#accuracy_rollouts')"
    browser.value(f"{figure}.scrollIntoView()")
    left, top, width = browser.value(
        f"(r => [r.left, r.top, r.width])({figure}.querySelector('.chart').getBoundingClientRect())"
    )
    browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=left + width - 15, y=top + 100)
    tip = browser.value(f"{figure}.querySelector('.tip').innerText").split()
    assert tip[:3] == ["cumulative", "rollouts", "128"]
    assert " ".join(tip[3:]).startswith("prepo (2 seeds) 0.61 [0.57, 0.65] random (2 seeds) 0.45 [0.41, 0.49]")

    lines = f"{figure}.querySelectorAll('.chart path[style*=stroke-width]').length"
    before = browser.value(lines)
    browser.value(f"{figure}.querySelectorAll('.names button')[1].click()")
    assert browser.value(lines) == before / 2
    assert browser.value(f"{figure}.querySelectorAll('.names button')[1].getAttribute('aria-pressed')") == "false"


def test_tables_sort_by_a_column_and_figures_change_their_axis(browser: Browser, pages: dict[str, Path]) -> None:
    browser.load(pages["comparison"], DESKTOP)
    column = "[...document.querySelectorAll('#seeds tbody tr')].map(row => row.cells[0].textContent)"
    heads = browser.value("[...document.querySelectorAll('#seeds th')].map(head => head.textContent)")
    click = f"document.querySelectorAll('#seeds th button')[{heads.index('final held-out score')}].click()"
    browser.value(click)
    best_first = browser.value(column)
    assert best_first == ["prepo-seed1", "prepo-seed0", "random-seed1", "random-seed0"]
    browser.value(click)
    assert browser.value(column) == best_first[::-1]
    shown = "[...document.querySelectorAll('[data-tab]')].filter(part => part.offsetWidth).map(part => part.id)"
    assert browser.value(shown) == ["accuracy_rollouts"]
    browser.value("document.querySelectorAll('#accuracy_rollouts .tabs button')[1].click()")
    assert browser.value(shown) == ["accuracy_tokens"]
    assert browser.value("document.querySelectorAll('#accuracy_tokens .chart path').length") > 6


def test_live_page_loads_itself_again(browser: Browser, tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run", steps=2, planned=9)
    index = write_report([run_dir], refresh_s=1)
    browser.load(index, PHONE)
    with (run_dir / "metrics.jsonl").open("a") as metrics:
        metrics.write(json.dumps({"step": 3, "data": {"critic/score/mean": 0.5}}) + "\n")
    write_report([run_dir])
    end = time.monotonic() + PATIENCE_S
    while "3 of 9" not in (browser.value("document.body && document.body.innerText") or ""):
        assert time.monotonic() < end, "the page was not loaded again"
        time.sleep(0.1)
