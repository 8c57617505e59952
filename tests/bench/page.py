"""How long people wait at `difftalk ui`: from the command to the first preview, and for answers while a video is made.

    python -m tests.bench.page PERSON AUDIO [--model DIR] [--shot PICTURE.png]

In a real browser, as tests/difftalk_cli/test_ui_browser.py drives it. Answers are those to a reload of the page and to a dropped
recording, a second after the other until the video is done.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.difftalk_cli.test_ui_browser import BROWSER, DRIVER, ROOT, Page, webdriver


def open_browser(profile: Path) -> webdriver.Chrome:
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--window-size=1400,1000"):
        options.add_argument(argument)
    options.add_argument(f"--user-data-dir={profile}")
    options.binary_location = BROWSER
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("person", type=Path)
    parser.add_argument("audio", type=Path)
    parser.add_argument("--model", type=Path, help="by default the one that ships")
    parser.add_argument("--shot", type=Path, help="a picture of the page at the end")
    o = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        driver = open_browser(Path(folder, "profile"))
        driver.get("about:blank")
        log = Path(folder, "log")
        command = [sys.executable, "-m", "difftalk_cli", "ui", "--port", "0", "--device", "cpu"]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": folder}
        begin = time.monotonic()

        def tell(what: str) -> None:
            print(f"{time.monotonic() - begin:6.1f} s  {what}", flush=True)

        with log.open("w") as told:
            server = subprocess.Popen(
                [*command, *(["--model", str(o.model.resolve())] if o.model else [])], cwd=folder, env=environment, stderr=told
            )
        try:
            while "page: http" not in log.read_text():
                assert server.poll() is None, log.read_text()
                time.sleep(0.05)
            tell("the page answers")
            address = log.read_text().split("page: ")[1].split()[0]
            page = Page(driver, address)
            page.drop("person", o.person.resolve())
            page.find(".dt-person img")
            page.drop("speech", o.audio.resolve())
            page.find(".dt-sound")
            page.click("#consent input")
            tell("person and recording are given, face and mask are shown")
            page.make("#preview")
            page.find(".dt-preview img")
            tell("the preview is shown")
            job = page.start("#run")
            page.find(f'{job}[data-state="running"]')
            reloads, drops = [], []
            while not page.all(f'{job}[data-state="done"]'):
                assert not page.all(f'{job}[data-state="failed"]'), page.text("#status")
                start = time.monotonic()
                page = Page(driver, address)
                reloads.append(time.monotonic() - start)
                start = time.monotonic()
                page.drop("speech", o.audio.resolve())
                page.find("#heard .dt-sound")
                drops.append(time.monotonic() - start)
                time.sleep(1)
            tell("the video is there")
            for name, found in (("reload", reloads), ("recording dropped and looked at", drops)):
                print(f"while it was made, {name}: median {sorted(found)[len(found) // 2]:.1f} s, worst {max(found):.1f} s of {len(found)}")
            if o.shot:
                driver.save_screenshot(str(o.shot))
        finally:
            server.terminate()
            server.wait()
            driver.quit()


if __name__ == "__main__":
    main()
