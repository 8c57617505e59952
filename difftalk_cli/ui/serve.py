"""The page's server: this machine alone, no other host, nothing fetched from anywhere, files by job and name."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from difftalk_cli.ui.jobs import ID, Table
from difftalk_cli.ui.worker import Worker
from stages.artifacts.files import make_folder, remove_tree
from stages.artifacts.lock import is_alive, lock
from stages.errors import ArtifactError, UsageError

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.responses import Response

HOST = "127.0.0.1"
PREFIX = "difftalk-ui-"
NEXT_PORTS = 20
FILES = {
    "preview.png": "preview.png", "source.mp4": "source.mp4", "result.mp4": "result.mp4", "result.json": "result.json",
    "scores-a.json": "a/scores.json", "scores-b.json": "b/scores.json", "report-a.html": "a/report.html", "report-b.html": "b/report.html",
}  # fmt: skip
"""Names in a link -> files in a job's folder: there are no others."""
POLICY = (
    "default-src 'self' 'unsafe-inline' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; object-src 'none'; "
    "base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)
"""gradio's page needs inline code; it may reach nobody but this server."""
REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; sandbox allow-scripts"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the server is started with."""

    models: list[Path] = field(default_factory=list)
    """Denoiser artifacts to choose from; with none, the bundled one."""
    port: int = 7860
    out: Path | None = None
    """Where jobs are kept; by default a temporary folder that goes with the server."""
    max_mb: int = 500
    runtime: dict[str, Any] = field(default_factory=dict)
    """Of stages.runtime.Runtime: device, dtype, threads, offline."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise UsageError(f"--port {self.port}: must be between 0 (any that is free) and 65535")
        if self.max_mb < 1:
            raise UsageError(f"--max-mb {self.max_mb}: must be at least 1")


def serve(settings: Settings, tell: Callable[[str], None]) -> None:
    """Serve until interrupted; `tell` gets the address once the page answers. Raises UsageError when no port is free."""
    with _workspace(settings.out) as folder, _socket(settings.port) as listening:
        uploads = folder / "uploads"
        remove_tree(uploads)
        make_folder(uploads)
        os.environ["DIFFTALK_TRACKS"] = str(folder / "tracks")  # where somebody's face was goes with the rest
        jobs = Worker(first={"kind": "warm", "model": _text(settings.models), "runtime": settings.runtime})
        eyes = Worker(first={"kind": "warm-eyes", "runtime": {}})
        for worker in (jobs, eyes):
            worker.start()  # they import torch while this process imports gradio
        table = Table(folder, jobs)
        try:
            _listen(build(settings, table, eyes, uploads), listening, tell)
        finally:
            table.close()
            eyes.kill()
            remove_tree(uploads)


def _text(models: list[Path]) -> str | None:
    return str(models[0]) if models else None


def _keep_private(uploads: Path) -> None:
    """Before gradio is imported: its temporary files lie in our folder, and nothing is counted or reported."""
    os.environ["GRADIO_TEMP_DIR"] = str(uploads)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = os.environ["DO_NOT_TRACK"] = "1"


def build(settings: Settings, table: Table, eyes: Worker, uploads: Path) -> FastAPI:
    """The whole application; `uploads` is where gradio puts files."""
    _keep_private(uploads)
    import gradio
    from fastapi import FastAPI
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    from difftalk_cli.ui.page import CSS, HEAD, THEME, make_page

    # Another site's name that points at this machine (DNS rebinding) is refused.
    only_us = Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, middleware=[only_us, Middleware(Guard)])
    app.add_api_route("/jobs/{id}/{name}", _files(table), methods=["GET"])
    page = make_page(settings, table, eyes, uploads)
    # Only a page that was launched refuses uploads that are no uploads but name any file; one that is mounted must be told so.
    page.has_launched = True
    return gradio.mount_gradio_app(
        app, page, "/", footer_links=[], run_history=False, max_file_size=f"{settings.max_mb}mb",
        server_name=HOST, allowed_paths=[], ssr_mode=False, show_error=True, theme=THEME(), css=CSS, head=HEAD, pwa=False,
    )  # fmt: skip


class Guard:
    """ASGI middleware: what changes anything must come from our own page, and the page may reach nobody else."""

    def __init__(self, app: Any):
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        from starlette.datastructures import Headers, MutableHeaders
        from starlette.responses import PlainTextResponse

        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        # Browsers say where a request comes from; another site's must not fill our disk or queue.
        foreign = Headers(scope=scope).get("sec-fetch-site", "none") not in ("none", "same-origin")
        if foreign and scope["method"] not in ("GET", "HEAD", "OPTIONS"):
            await PlainTextResponse("only the page itself may do this", status_code=403)(scope, receive, send)
            return

        async def guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("Content-Security-Policy", POLICY)
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Referrer-Policy"] = "no-referrer"
            await send(message)

        await self.app(scope, receive, guarded)


def _files(table: Table) -> Callable[[str, str], Response]:
    from starlette.responses import FileResponse, PlainTextResponse

    def file(id: str, name: str) -> Any:
        job = table.get(id) if ID.fullmatch(id) else None
        if job is None or name not in FILES or not (path := job.path(FILES[name])).is_file():
            return PlainTextResponse("no such file", status_code=404)
        headers = {"Cache-Control": "no-cache"}
        if name.endswith(".html"):
            headers["Content-Security-Policy"] = REPORT_POLICY
        return FileResponse(path, headers=headers)

    return file


# -- where and on what


@contextmanager
def _workspace(out: Path | None) -> Iterator[Path]:
    """The folder of jobs and uploads: `out`, or a temporary one that is removed at the end."""
    if out is not None:
        if out.is_file():
            raise ArtifactError(f"{out} is a file; give a folder as --out")
        make_folder(out)
        with lock(out):
            yield out.resolve()
        return
    _sweep()
    folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-")).resolve()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sweep() -> None:
    """Remove what servers left that were killed: people's faces are in there."""
    for old in Path(tempfile.gettempdir()).glob(f"{PREFIX}*-*"):
        with suppress(OSError, ValueError):
            if old.stat().st_uid == os.getuid() and not is_alive(int(old.name.removeprefix(PREFIX).split("-")[0])):
                shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _socket(port: int) -> Iterator[socket.socket]:
    """A socket on `port` of this machine alone, or on one of the next that is free."""
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for candidate in range(port, min(port + NEXT_PORTS, 65536)) if port else (0,):
            try:
                listening.bind((HOST, candidate))
                break
            except OSError:
                continue
        else:
            raise UsageError(f"--port {port}: taken, and so are the next {NEXT_PORTS - 1}; give another")
        yield listening


def _listen(app: FastAPI, listening: socket.socket, tell: Callable[[str], None]) -> None:
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                tell(f"http://{HOST}:{listening.getsockname()[1]}")

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            # pages that are still open are cut off, and that is no error worth a traceback
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL + 1)
            await super().shutdown(sockets)

    # a page that is open keeps a connection: it must not keep the server
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2, lifespan="on")
    with suppress(KeyboardInterrupt):
        Server(config).run(sockets=[listening])
