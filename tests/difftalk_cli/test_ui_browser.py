"""difftalk ui in a real browser: headless Chromium, driven by selenium; skipped where none is installed."""

import json
import os
import shutil
import subprocess
import sys
import time
from fractions import Fraction
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from stages import infer, weights
from stages.errors import InputError
from stages.media.audio import read_audio, write_wav
from stages.media.video import VideoReader, VideoWriter
from stages.runtime import Runtime
from tests.small import make_model

pytest.importorskip("gradio", reason="the page's extra is not installed")
webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")

ROOT = Path(__file__).parents[2]
BROWSER = next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.skipif(not (BROWSER and DRIVER), reason="no browser: apt-get install chromium chromium-driver"),
    pytest.mark.slow,
]
PATIENCE = 240.0
"""Seconds; other tests may use the processors too."""


@pytest.fixture(scope="module")
def files(made_clip, tmp_path_factory) -> Path:
    """What is dropped on the page: sound.wav (0.6 s: 15 frames) and person.mp4 (0.8 s); broken, empty and silent ones."""
    folder = tmp_path_factory.mktemp("dropped")
    write_wav(folder / "sound.wav", read_audio(made_clip)[:9_600])
    with VideoWriter(folder / "person.mp4", fps=Fraction(25), size=(320, 320)) as out:
        for frame in islice(VideoReader(made_clip), 20):
            out.write(frame)
    (folder / "text.mp4").write_text("this is a shopping list\n" * 50)
    (folder / "empty.mp4").touch()
    with VideoWriter(folder / "silent.mp4", fps=Fraction(25), size=(160, 120)) as out:
        for i in range(5):
            out.write(np.full((120, 160, 3), 40 * i, np.uint8))
    return folder


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A page that is served as people do it."""
    folder = tmp_path_factory.mktemp("served")
    make_model(folder / "model", still=True)
    log, environment = folder / "log", os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(folder)}
    with log.open("w") as told:
        process = subprocess.Popen(
            [sys.executable, "-m", "difftalk_cli", "ui", "--model", "model", "--port", "0", "--device", "cpu", "--threads", "1"],
            cwd=folder, env=environment, stderr=told,
        )  # fmt: skip
    try:
        end = time.monotonic() + PATIENCE
        while "page: http" not in log.read_text():
            assert process.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.1)
        yield log.read_text().split("page: ")[1].split()[0]
    finally:
        process.terminate()
        code = process.wait(PATIENCE)
    assert code == 0 and not list(folder.glob("difftalk-ui-*")), log.read_text()
    assert "Traceback" not in log.read_text()


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    options = webdriver.ChromeOptions()
    profile = tmp_path_factory.mktemp("profile")
    for argument in (
        "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--window-size=1400,1000",
        "--autoplay-policy=no-user-gesture-required", "--disable-background-networking", f"--user-data-dir={profile}",
    ):  # fmt: skip
        options.add_argument(argument)
    options.binary_location = BROWSER
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.set_script_timeout(PATIENCE)
    yield driver
    driver.quit()


class Page:
    """One tab of the page."""

    def __init__(self, driver, address: str):
        self.driver = driver
        driver.get(address)
        self.find("#person input[type=file]")
        self.until(self.told)  # what was made before is there

    def told(self) -> dict:
        """What the server told this tab last."""
        look = "return document.querySelector('#shown textarea, #shown input')?.value || '{}'"
        return json.loads(self.driver.execute_script(look))

    def all(self, selector: str):
        return self.driver.find_elements("css selector", selector)

    def until(self, check, seconds: float = PATIENCE):
        from selenium.common.exceptions import StaleElementReferenceException

        end = time.monotonic() + seconds
        while True:
            try:
                if found := check():
                    return found
            except StaleElementReferenceException:
                pass  # replaced while it was looked at
            assert time.monotonic() < end, self.driver.find_element("tag name", "body").text
            time.sleep(0.1)

    def find(self, selector: str):
        return self.until(lambda: (self.all(selector) or [None])[0])

    def drop(self, place: str, path: Path) -> None:
        """Give a file, and wait until the server has it: before that the page shows its name too, but a button would not see it."""
        self.find(f"#{place} input[type=file]").send_keys(str(path))
        self.find(f'#{place} .filename[aria-label="{path.name}"]')

    def click(self, selector: str) -> None:
        """A click on what is there, scrolled to or not."""
        element = self.until(lambda: next((e for e in self.all(selector) if e.is_displayed()), None))
        self.driver.execute_script("arguments[0].click()", element)

    def choose(self, place: str, number: int) -> None:
        """An entry of a drop-down list, counted from 1."""
        field = self.find(f"#{place} input")
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", field)
        self.until(lambda: field.is_displayed())
        field.click()
        self.until(lambda: self.all(f"#{place} li[role=option], ul[role=listbox] li"))[number - 1].click()

    def text(self, selector: str) -> str:
        return self.until(lambda: " ".join(e.text for e in self.all(selector)))

    def size_of(self, link: str) -> int:
        """Bytes behind a link, got as the browser gets them."""
        fetch = "fetch(arguments[0]).then(r => r.arrayBuffer()).then(b => arguments[1](b.byteLength))"
        return self.driver.execute_async_script(fetch, self.find(link).get_attribute("href"))

    def newest(self) -> int:
        """The number of the newest job that this tab knows of, 0 with none."""
        return max((int(label[1:].split()[0]) for label, _ in self.told()["jobs"][0]), default=0)

    def start(self, button: str) -> str:
        """Click; the selector of the new job's status."""
        before = self.newest()
        self.click(button)
        self.find(f'#status [data-number="{before + 1}"]')
        return f'#status [data-number="{before + 1}"]'

    def make(self, button: str, state: str = "done") -> None:
        """Click, and wait until the new job has ended so."""
        job = self.start(button)
        ended = self.until(lambda: [e for s in ("done", "failed", "stopped") for e in self.all(f'{job}[data-state="{s}"]')])
        assert ended[0].get_attribute("data-state") == state, self.text("#status")


def filled(driver, address: str, files: Path, **settings) -> Page:
    page = Page(driver, address)
    page.drop("person", files / "person.mp4")
    page.find(".dt-person img")
    page.drop("speech", files / "sound.wav")
    page.find(".dt-sound")
    page.click("#consent input")
    for name, value in settings.items():
        field = page.find(f"#set-{name} input, #set-{name} textarea")
        field.clear()
        field.send_keys(str(value))
        field.send_keys("\t")
    return page


def test_from_a_drop_to_a_video_that_plays_beside_its_source(driver, address, files):
    page = filled(driver, address, files, steps=2)
    assert "320x320, 25 fps, 1 face" in page.text("#seen") and "0.6 s" in page.text("#heard")
    page.make("#preview")
    picture = page.find(".dt-preview img")
    page.until(lambda: driver.execute_script("return arguments[0].naturalWidth", picture) == 640)
    page.make("#run")
    videos = page.until(lambda: len(v := page.all(".dt-player video")) == 2 and v)
    page.until(lambda: driver.execute_script("return [...arguments].every(v => v.readyState > 1 && !v.error)", *videos))
    lengths = driver.execute_script("return [...arguments].map(v => v.duration)", *videos)
    assert lengths[0] == pytest.approx(0.6, abs=0.1) and lengths[1] == pytest.approx(lengths[0], abs=0.05)
    page.click(".dt-play")
    page.until(lambda: driver.execute_script("return arguments[0].currentTime", videos[1]) > 0.3)
    page.until(lambda: driver.execute_script("return Math.abs(arguments[0].currentTime - arguments[1].currentTime)", *videos) < 0.1)
    facts = page.text(".dt-facts")
    assert "100.0% of 15 frames" in facts and "0, 2" in facts and "sha256" in facts
    assert page.size_of(".dt-link") > 5000
    # nothing of the page came from elsewhere, or tried to
    loaded = driver.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert loaded and [name for name in loaded if not name.startswith((address, "data:", "blob:"))] == []


def test_a_result_is_compared_and_checked(driver, address, files):
    page = filled(driver, address, files, steps=2, seed=5)
    page.make("#run")
    page.click("#tab-compare-button")
    page.choose("pick-a", 1)
    page.drop("file-b", files / "person.mp4")
    if any(row.file.name.startswith("lpips") and row.where is None for row in weights.status()):
        page.make("#compare", "failed")
        assert "--fetch" in page.text("#status .dt-error")
    else:
        page.make("#compare")
        head = page.text(".dt-scores tr:first-child")
        assert "#" in head and "person.mp4" in head and "psnr" in page.text(".dt-scores")
    page.click("#tab-speak-button")
    page.click("#jobs label:nth-child(2) input")
    page.make("#check-result")
    assert "Made by difftalk" in page.text(".dt-verdict")
    page.click("#tab-check-button")
    page.drop("marked", files / "person.mp4")
    page.make("#check")
    page.until(lambda: "No sign of difftalk" in page.text("#result"))


def reopened(driver, address: str) -> Page:
    """The page in a new tab; the old one is closed."""
    old = driver.current_window_handle
    driver.switch_to.new_window("tab")
    new = driver.current_window_handle
    driver.switch_to.window(old)
    driver.close()
    driver.switch_to.window(new)
    return Page(driver, address)


def test_a_job_outlives_its_tab_and_its_result_is_there_when_it_is_opened_again(driver, address, files):
    page = filled(driver, address, files, steps=50)
    job = page.start("#run")
    page.find(f'{job}[data-state="running"]')
    page = reopened(driver, address)
    page.find(f'{job}[data-state="done"]')
    page.until(lambda: len(page.all(".dt-player video")) == 2)
    assert page.size_of(".dt-link") > 5000 and "0, 50" in page.text(".dt-facts")


def test_the_page_answers_while_a_job_runs_and_stop_stops_it(driver, address, files):
    page = filled(driver, address, files, steps=900)
    job = page.start("#run")
    page.find(f'{job}[data-state="running"] .dt-bar[role]')
    page = reopened(driver, address)  # it shows what runs
    page.find(f'{job}[data-state="running"]')
    page.click("#tab-check-button")
    assert page.until(lambda: page.all("#marked")[0].is_displayed())
    page.click("#tab-speak-button")
    page.drop("speech", files / "sound.wav")
    page.find("#heard .dt-sound")
    assert page.all(f'{job}[data-state="running"]')  # all that happened beside it
    page.click("#stop")
    page.find(f'{job}[data-state="stopped"]')
    assert "what was finished is kept" in page.text("#status")
    assert page.until(lambda: page.all("#again")[0].is_displayed())
    page.click("#remove")
    page.until(lambda: not page.all(job) and not any("stopped" in e.text for e in page.all("#jobs")))


@pytest.mark.parametrize("name", ["text.mp4", "empty.mp4", "silent.mp4"])
def test_what_cannot_be_used_gets_the_command_lines_words(driver, address, files, name, tmp_path):
    """As the person: a text and an empty file; as the speech: a video without sound."""
    person, sound = (files / "person.mp4", files / name) if name == "silent.mp4" else (files / name, files / "sound.wav")
    with pytest.raises(InputError) as told:
        infer.run(infer.Config(), infer.Inputs(sound, person, make_model(tmp_path / "model")), tmp_path / "out.mp4", Runtime())
    words = " ".join(str(told.value).replace(f"{files}/", "").split())
    page = Page(driver, address)
    page.drop("person", person)
    page.find("#seen .dt-person, #seen .dt-error")
    page.drop("speech", sound)
    page.find("#heard .dt-sound, #heard .dt-error")
    shown = page.text("#seen .dt-error, #heard .dt-error")
    assert " ".join(shown.split()) == words
    page.click("#run")
    page.until(lambda: "tick the line" in page.text("#notice"))
    page.click("#consent input")
    page.make("#run", "failed")
    assert " ".join(page.text("#status .dt-error").split()) == words


def test_a_click_in_the_moment_of_the_last_answer_is_answered_too(driver, address, files):
    """Its job must be the one that is shown; gradio's queue loses such answers."""
    page = Page(driver, address)
    page.drop("person", files / "text.mp4")
    page.drop("speech", files / "sound.wav")
    page.find("#heard .dt-sound")
    click = """
        const [notice, box, run] = ["#notice", "#consent input", "#run"].map(name => document.querySelector(name));
        const again = () => { box.click(); setTimeout(() => run.click(), 20); };
        const seen = new MutationObserver(() => {
            if (notice.textContent.includes("tick the line")) { seen.disconnect(); setTimeout(again, arguments[0]); }
        });
        seen.observe(notice, {childList: true, subtree: true, characterData: true});
        run.click();
    """
    for milliseconds in (0, 10, 20, 30, 40):
        before = page.newest()
        driver.execute_script(click, milliseconds)
        page.find(f'#status [data-number="{before + 1}"][data-state="failed"]')
        page.until(lambda: not page.find("#notice").text)
        page.click("#consent input")
