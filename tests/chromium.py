"""A headless Chromium for tests, driven over its DevTools pipe: no port, no driver program, no network.

`Chromium(profile)` starts one browser with one page. `open(path)` loads a file and waits until it has loaded;
what the page logged, threw or asked to load meanwhile is in `console`, `exceptions` and `requests`. Leaving
the context ends the browser and its whole process group.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from chaos.descriptors import readable

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
]


def find_chromium() -> str | None:
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Chromium:
    """One browser, one page. Every wait has a deadline of `deadline_s` and says what it waited for."""

    def __init__(self, profile: Path, *, deadline_s: float = 30.0) -> None:
        program = find_chromium()
        if program is None:
            raise RuntimeError("no Chromium: install Debian's package chromium")
        self.deadline_s = deadline_s
        self.console: list[tuple[str, str]] = []
        self.exceptions: list[str] = []
        self.requests: list[str] = []
        self._loaded = 0
        self._number = 0
        self._buffer = b""
        self._answers: dict[int, dict[str, Any]] = {}
        # The browser reads commands from descriptor 3 and answers on 4, each ended by a NUL.
        commands_read, self._commands = os.pipe()
        self._replies, replies_write = os.pipe()
        # Two steps, through numbers that are neither 3 nor 4, so that one dup2 cannot clobber the other.
        script = f'exec 8<&{commands_read} 9>&{replies_write}; exec 3<&8 4>&9 8<&- 9>&-; exec "$@"'
        self._process = subprocess.Popen(
            ["bash", "-c", script, "chromium", program, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(commands_read, replies_write),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(commands_read)
        os.close(replies_write)
        try:
            page = self._ask("Target.createTarget", {"url": "about:blank"}, session=None)["targetId"]
            attached = self._ask("Target.attachToTarget", {"targetId": page, "flatten": True}, session=None)
            self._session = str(attached["sessionId"])
            for domain in ("Page", "Runtime", "Log", "Network"):
                self.ask(f"{domain}.enable")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Chromium:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the browser. Asked politely it ends its helpers itself, some of which are in groups of their own."""
        try:
            with contextlib.suppress(OSError, RuntimeError, TimeoutError):
                self._ask("Browser.close", {}, session=None)
                self._process.wait(10)
        except subprocess.TimeoutExpired:
            pass
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            os.close(self._commands)
            os.close(self._replies)

    def device(self, *, width: int = 1280, height: int = 900, dark: bool = False, mobile: bool = False) -> None:
        """The window's size in CSS pixels, and which colour scheme the reader prefers."""
        size = {"width": width, "height": height, "deviceScaleFactor": 2 if mobile else 1, "mobile": mobile}
        self.ask("Emulation.setDeviceMetricsOverride", size)
        self.scheme(dark=dark)

    def scheme(self, *, dark: bool) -> None:
        feature = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", {"features": [feature]})

    def scripts(self, *, enabled: bool) -> None:
        self.ask("Emulation.setScriptExecutionDisabled", {"value": not enabled})

    def open(self, path: Path) -> None:
        self.console, self.exceptions, self.requests = [], [], []
        seen = self._loaded
        self.ask("Page.navigate", {"url": path.resolve().as_uri()})
        self._until(lambda: self._loaded > seen, f"{path} to load")

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression; a promise is awaited."""
        asked = {"expression": expression, "returnByValue": True, "awaitPromise": True}
        answer = self.ask("Runtime.evaluate", asked)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def wait_for(self, expression: str) -> None:
        """Until a JavaScript expression is true, asked once per frame drawn."""
        deadline = time.monotonic() + self.deadline_s
        while not self.evaluate(f"new Promise(r => requestAnimationFrame(() => r(Boolean({expression}))))"):
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {self.deadline_s} s for {expression[-300:]}; console: {self.console}")

    def screenshot(self, path: Path, *, whole: bool = True) -> None:
        shot = self.ask("Page.captureScreenshot", {"format": "png", "captureBeyondViewport": whole})
        path.write_bytes(base64.b64decode(shot["data"]))

    def pdf(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.ask("Page.printToPDF", {"printBackground": True})["data"]))

    def ask(self, method: str, values: dict[str, Any] | None = None) -> dict[str, Any]:
        """One command of the DevTools protocol to the page, and its answer."""
        return self._ask(method, values or {}, session=self._session)

    def _ask(self, method: str, values: dict[str, Any], session: str | None) -> dict[str, Any]:
        self._number += 1
        number = self._number
        command = {"id": number, "method": method, "params": values} | ({"sessionId": session} if session else {})
        data = json.dumps(command).encode() + b"\0"
        while data:
            data = data[os.write(self._commands, data) :]
        self._until(lambda: number in self._answers, f"an answer to {method}")
        answer = self._answers.pop(number)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        result: dict[str, Any] = answer["result"]
        return result

    def _until(self, done: Any, what: str) -> None:
        deadline = time.monotonic() + self.deadline_s
        while not done():
            left = deadline - time.monotonic()
            if not readable(self._replies, max(0.0, left)):
                raise TimeoutError(f"Chromium: waited {self.deadline_s} s for {what}")
            data = os.read(self._replies, 1 << 20)
            if not data:
                raise RuntimeError(f"Chromium ended (exit {self._process.wait()}) while waiting for {what}")
            *messages, self._buffer = (self._buffer + data).split(b"\0")
            for message in messages:
                self._take(json.loads(message))

    def _take(self, message: dict[str, Any]) -> None:
        if "id" in message:
            self._answers[message["id"]] = message
            return
        values = message.get("params", {})
        match message["method"]:
            case "Page.loadEventFired":
                self._loaded += 1
            case "Runtime.consoleAPICalled":
                text = " ".join(str(arg.get("value", arg.get("description"))) for arg in values["args"])
                self.console.append((values["type"], text))
            case "Log.entryAdded":
                self.console.append((values["entry"]["level"], values["entry"]["text"]))
            case "Runtime.exceptionThrown":
                self.exceptions.append(json.dumps(values["exceptionDetails"]))
            case "Network.requestWillBeSent":
                self.requests.append(values["request"]["url"])
