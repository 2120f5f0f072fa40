#!/usr/bin/env python3
"""Takes screenshots of pages in a headless Chromium, and checks that nothing overflows them to the side.

    scripts/report_screens.py PAGE.html... [--output FOLDER] [--widths 400,1280] [--dark] [--height PIXELS]

Every page is opened from disk at every width, without a network. The exit code is 1 where a page is wider than its window,
asks for anything from elsewhere, or logs an error; it is 3 where there is no browser. The browser is $CHROMIUM, or
`chromium`, `chromium-browser` or `google-chrome` of the PATH (`apt-get install chromium`). Nothing but Python's own
library is used: the browser is asked over its debugging pipe.
"""

import argparse
import base64
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def browser():
    named = os.environ.get("CHROMIUM")
    return named or next((path for name in BROWSERS if (path := shutil.which(name))), None)


class Browser:
    """A headless Chromium, asked over its pipe."""

    def __init__(self, program, profile):
        to_read, self.write = os.pipe()
        self.read, to_write = os.pipe()

        def pipes():
            # The browser reads from 3 and writes to 4.
            kept = [os.dup2(to_read, 103), os.dup2(to_write, 104)]
            for number, copy in zip((3, 4), kept):
                os.dup2(copy, number)

        command = [program, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-pipe",
                   "--no-first-run", "--disable-dev-shm-usage", "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={profile}"]
        self.process = subprocess.Popen(command, preexec_fn=pipes, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(to_read)
        os.close(to_write)
        self.rest, self.number, self.events = b"", 0, []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime"):
            self.ask(f"{domain}.enable")

    def message(self):
        while b"\0" not in self.rest:
            got = os.read(self.read, 1 << 20)
            if not got:
                sys.exit("report_screens: the browser ended")
            self.rest += got
        text, self.rest = self.rest.split(b"\0", 1)
        return json.loads(text)

    def ask(self, method, **parameters):
        self.number += 1
        asked = {"id": self.number, "method": method, "params": parameters}
        if getattr(self, "session", None):
            asked["sessionId"] = self.session
        data = json.dumps(asked).encode() + b"\0"
        while data:
            data = data[os.write(self.write, data):]
        while True:
            message = self.message()
            if message.get("id") == self.number:
                if "error" in message:
                    sys.exit(f"report_screens: {method}: {message['error']}")
                return message["result"]
            self.events.append(message)

    def wait(self, method):
        while not any(event.get("method") == method for event in self.events):
            self.events.append(self.message())

    def value(self, expression):
        return self.ask("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def open(self, page, width, dark):
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
        self.events = []
        self.ask("Page.navigate", url=page.resolve().as_uri())
        self.wait("Page.loadEventFired")

    def close(self):
        self.process.terminate()
        self.process.wait()


def faults(of, page, width):
    """What is wrong with the page that is open."""
    wide = of.value("document.scrollingElement.scrollWidth")
    if wide > width:
        widest = of.value(
            "[...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll') && e.getBoundingClientRect().right > innerWidth + 1)"
            ".slice(0, 3).map(e => e.tagName + '.' + e.className).join(', ')")
        yield f"{page.name} is {wide} wide in a window of {width}: {widest}"
    # What text has a box of its own is not cut by another.
    for event in of.events:
        method, parameters = event.get("method"), event.get("params", {})
        if method == "Network.requestWillBeSent" and not parameters["request"]["url"].startswith(("file:", "data:", "about:")):
            yield f"{page.name} asks for {parameters['request']['url']}"
        if method == "Runtime.exceptionThrown":
            yield f"{page.name}: {parameters['exceptionDetails'].get('text')}"
    levels = of.value("[...document.querySelectorAll('h1,h2,h3,h4,h5,h6')].map(h => +h.tagName[1])")
    if levels[:1] != [1] or any(b > a + 1 for a, b in zip(levels, levels[1:])):
        yield f"{page.name}: headings out of order: {levels}"
    scripts = of.value("document.scripts.length")
    if scripts:
        yield f"{page.name} has {scripts} scripts"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="+", type=pathlib.Path)
    parser.add_argument("--output", type=pathlib.Path, help="folder for the pictures; none are kept without it")
    parser.add_argument("--widths", default="400,1280")
    parser.add_argument("--dark", action="store_true", help="dark pictures, too")
    parser.add_argument("--height", type=int, help="the first so many pixels alone")
    options = parser.parse_args()
    program = browser()
    if not program:
        print("report_screens: there is no Chromium: apt-get install -y chromium, or name one in $CHROMIUM", file=sys.stderr)
        return 3
    wrong = []
    with tempfile.TemporaryDirectory() as profile:
        opened = Browser(program, profile)
        try:
            for page in options.pages:
                for width in map(int, options.widths.split(",")):
                    for dark in (False, True) if options.dark else (False,):
                        opened.open(page, width, dark)
                        wrong += faults(opened, page, width)
                        if options.output:
                            options.output.mkdir(parents=True, exist_ok=True)
                            height = options.height or min(opened.value("document.scrollingElement.scrollHeight"), 16000)
                            clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
                            shot = opened.ask("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)
                            name = f"{page.stem}-{width}{'-dark' if dark else ''}.png"
                            (options.output / name).write_bytes(base64.b64decode(shot["data"]))
        finally:
            opened.close()
    for line in wrong:
        print(f"report_screens: {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
