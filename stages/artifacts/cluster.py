"""Calls on a Ray cluster: the driver schedules and reports; workers on all nodes do the work and commit it to a shared disk.

A worker is an actor, one process that takes call after call, so that what a task keeps at module level (networks, detectors)
is loaded once. Ray's own retries are off: the driver gives a call whose worker is lost to another one, and counts.
"""

from __future__ import annotations

import math
import os
import signal
import socket
import tempfile
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import stages
from stages.artifacts.files import make_folder
from stages.artifacts.parallel import Call, Ended, answer, largest_first
from stages.errors import ArtifactError, DiffTalkError, UsageError
from stages.runtime import Needs, Progress, Runtime

DEATHS = 3
"""Times that a call may kill its worker before it is given up."""
LOSSES = 10
"""Times that it may lose its whole node, which is rarely its fault."""
POLL_SECONDS = 1.0
"""How often the driver looks for nodes that joined."""
NOBODY_SECONDS = 30.0
"""After so long without a worker the user is told."""
SEE_SECONDS = 15.0
"""How long a new file may take to show on another node: network file systems remember for a while what was not there."""


START = "start one with `ray start --head` and `ray start --address HEAD:6379` on the other machines"


def on_ray(calls: Sequence[Call], runtime: Runtime, needs: Needs, bar: Progress, place: Path) -> Ended:
    """Do every call on the cluster `runtime.ray`, as `run_calls` says.

    Raises UsageError when Ray or the cluster is not there, ArtifactError when a node does not see `place`.
    """
    ray, mine = connect(str(runtime.ray))
    try:
        with _token(place) as token:
            fleet = Fleet(ray, runtime, needs, bar, token)
            try:
                yield from fleet.run(calls)
            finally:
                fleet.close()
    finally:
        if mine:
            ray.shutdown()


def connect(address: str) -> tuple[Any, bool]:
    """The ray module, connected, and whether it was connected here. Raises UsageError, saying what to do."""
    try:
        import ray
    except ImportError:
        raise UsageError("--ray: Ray is not installed; pip install 'difftalk[ray]' on every node, or use --workers") from None
    if ray.is_initialized():  # by the program that calls us
        return ray, False
    where = _address(address)
    before = signal.getsignal(signal.SIGTERM) if threading.current_thread() is threading.main_thread() else None
    os.environ.setdefault("RAY_gcs_server_port_wait_time_s", "1")  # tries, of ten seconds each, where something else answers
    try:
        ray.init(address=where, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UsageError(f"--ray {address}: no Ray cluster at {where} ({_first_line(error)}); {START}") from None
    finally:
        if before is not None:  # Ray ends the process on SIGTERM; we end as with Ctrl-C
            signal.signal(signal.SIGTERM, before)
    return ray, True


def _address(address: str) -> str:
    """HOST:PORT of a cluster whose head answers. Raises UsageError: Ray itself would wait for it, deaf to Ctrl-C, for minutes."""
    where = address
    if address == "auto":
        # As Ray finds it: what `ray start` has left on this machine.
        told = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()) / "ray" / "ray_current_cluster"
        where = os.environ.get("RAY_ADDRESS") or (told.read_text().strip() if told.is_file() else "")
        if not where:
            raise UsageError(f"--ray auto: this machine belongs to no Ray cluster; {START}, or use --workers")
    host, _, port = where.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, ValueError) as error:
        raise UsageError(f"--ray {address}: no Ray cluster answers at {where} ({error}); {START}") from None
    return where


@contextmanager
def _token(place: Path) -> Iterator[Path]:
    """A file of a name that exists nowhere else: a node that sees it sees the same disk, not a folder of the same name."""
    make_folder(place)
    path = place.absolute() / f".seen-{uuid.uuid4().hex[:12]}.part"
    path.touch()
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Hello:
    """What a new worker says of itself."""

    node: str
    host: str
    version: str
    missing: str
    """What it does not see of the folders that all must share; empty when it sees all."""


@dataclass(frozen=True)
class Answer:
    """What a call returned, or its exception; `sees` is false when the shared folder has gone from the worker's node."""

    outcome: Any
    sees: bool = True


class Worker:
    """The actor's body, in a process of its own on some node."""

    def __init__(self, token: Path, folder: str, patience: float, threads: int, environment: dict[str, str]):
        self.token, self.folder, self.patience = token, folder, patience
        os.environ.update(environment)
        # Before anything imports them: as many threads as cores were asked for, not as many as the node has.
        os.environ.update({"OMP_NUM_THREADS": str(threads), "OPENCV_FOR_THREADS_NUM": str(threads)})

    def hello(self) -> Hello:
        import ray

        deadline = time.monotonic() + self.patience
        while (missing := self._missing()) and time.monotonic() < deadline:
            time.sleep(0.5)
        return Hello(ray.get_runtime_context().get_node_id(), socket.gethostname(), stages.__version__, missing)

    def _missing(self) -> str:
        try:
            os.chdir(self.folder)  # relative paths are the driver's
        except OSError:
            return self.folder
        return "" if self.token.exists() else str(self.token.parent)

    def work(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Answer:
        outcome = answer(function, arguments)
        # A file system that went away makes good input look bad; then it is the node that failed.
        return Answer(outcome, not isinstance(outcome, Exception) or self.token.exists())


@dataclass(eq=False)
class Hand:
    """The driver's view of one worker."""

    actor: Any
    node: str = ""
    host: str = "a node"


@dataclass
class Fleet:
    """The driver's side: which workers there are, and who does what."""

    ray: Any
    runtime: Runtime
    needs: Needs
    bar: Progress
    token: Path
    starting: dict[Any, Hand] = field(default_factory=dict)
    """By the reference of what is awaited, like `busy`."""
    busy: dict[Any, tuple[Hand, Call]] = field(default_factory=dict)
    idle: list[Hand] = field(default_factory=list)
    deaths: dict[str, int] = field(default_factory=dict)
    losses: dict[str, int] = field(default_factory=dict)
    nodes: dict[str, dict[str, float]] = field(default_factory=dict)
    """What each node has: CPU, GPU and so on."""
    looked: float = -math.inf
    """When that was seen."""
    unmanned: float = field(default_factory=time.monotonic)
    """Since when nobody is at work."""
    stillborn: int = 0
    """Workers that did not start, one after the other."""

    def run(self, calls: Sequence[Call]) -> Ended:
        """Yield each call's outcome as it comes. A call whose worker is lost is done again by another one."""
        waiting, begin, ended, failed = deque(largest_first(calls)), time.monotonic(), 0, 0
        while waiting or self.busy:
            self._hire(len(waiting) + len(self.busy))
            while waiting and self.idle:
                hand, call = self.idle.pop(), waiting.popleft()
                self.busy[hand.actor.work.remote(call.function, call.arguments)] = hand, call
            ready, _ = self.ray.wait([*self.starting, *self.busy], num_returns=1, timeout=POLL_SECONDS)
            for reference in ready:
                if reference in self.starting:
                    self._welcome(reference)
                    continue
                call, outcome = self._hear(reference)
                if outcome is LOST:
                    waiting.appendleft(call)
                    continue
                ended, failed = ended + 1, failed + isinstance(outcome, Exception)
                self.bar.advance(call.size)
                self.bar.note(self._note(ended, len(calls), failed, time.monotonic() - begin))
                yield call, outcome

    def close(self) -> None:
        """Let every worker go; what they were at is dropped unfinished."""
        for hand in [*self.starting.values(), *self.idle, *(hand for hand, _ in self.busy.values())]:
            with suppress(Exception):  # a cluster that is gone has taken them along; what ended the run is told already
                self.ray.kill(hand.actor)

    # -- workers

    def _hire(self, useful: int) -> None:
        """Start workers up to what the cluster has room for (it may grow) or --workers says, and the calls can use."""
        if time.monotonic() - self.looked > POLL_SECONDS:
            self._look()
        most = self.runtime.workers if self.runtime.workers > 1 else max(1, self._room())
        for _ in range(min(most, useful) - self._hands()):
            options = {"num_cpus": self._cpus(), "num_gpus": self._gpus(), "max_restarts": 0, "scheduling_strategy": "SPREAD"}
            environment = {name: value for name, value in os.environ.items() if name.startswith("DIFFTALK_")}
            new = self.ray.remote(Worker).options(**options)
            actor = new.remote(self.token, os.getcwd(), SEE_SECONDS, self._cpus(), environment)
            self.starting[actor.hello.remote()] = Hand(actor)
        if self.busy or self.idle:
            self.unmanned = time.monotonic()
        elif time.monotonic() - self.unmanned > NOBODY_SECONDS:
            self.unmanned = time.monotonic()
            wanted = f"{self._cpus()} CPUs" + (f" and {self._gpus():g} GPUs" if self._gpus() else "")
            self.runtime.reporter.warn(f"no node of the cluster has {wanted} free; waiting for one (`ray status` shows who has them)")

    def _hands(self) -> int:
        return len(self.starting) + len(self.busy) + len(self.idle)

    def _room(self) -> int:
        """Workers that the nodes alive would hold, were they free."""
        gpus, room = self._gpus(), 0
        for have in self.nodes.values():
            rooms = [have.get("CPU", 0) / self._cpus()] + ([have.get("GPU", 0) / gpus] if gpus else [])
            room += math.floor(min(rooms) + 1e-6)
        return room

    def _cpus(self) -> int:
        """A worker's cores; on smaller machines than the stage would like, a whole one's."""
        largest = max((int(have.get("CPU", 0)) for have in self.nodes.values()), default=0)
        return max(1, min(self.needs.cpus, largest or self.needs.cpus))

    def _gpus(self) -> float:
        """A worker's share of a GPU: none where the cluster has none, or the user says cpu."""
        device = self.runtime.device
        if device == "auto":
            return self.needs.gpus if any(have.get("GPU", 0) for have in self.nodes.values()) else 0.0
        return self.needs.gpus if device.startswith("cuda") else 0.0

    def _look(self) -> None:
        """See which nodes there are now."""
        self.nodes, self.looked = {node["NodeID"]: node["Resources"] for node in self.ray.nodes() if node["Alive"]}, time.monotonic()

    def _welcome(self, reference: Any) -> None:
        """A worker has started, or has not. Raises what no other worker would do better."""
        hand = self.starting.pop(reference)
        try:
            said: Hello = self.ray.get(reference)
        except self.ray.exceptions.RayError as error:
            self.stillborn += 1
            self.runtime.reporter.log(f"a worker did not start: {_first_line(error)}")
            if self.stillborn > DEATHS + len(self.nodes):
                how = "is this version of difftalk installed on every node, for the Python that runs Ray there?"
                raise DiffTalkError(f"--ray: workers do not start ({_first_line(error)}); {how}") from None
            return
        if said.version != stages.__version__:
            raise ArtifactError(f"--ray: {said.host} has difftalk {said.version}, this machine {stages.__version__}; install the same")
        if said.missing:
            how = "inputs, outputs and the folder you are in must lie on a disk that all nodes share, under the same path"
            raise ArtifactError(f"--ray: {said.host} does not see {said.missing}; {how}")
        hand.node, hand.host, self.stillborn = said.node, said.host, 0
        self.idle.append(hand)

    # -- calls

    def _hear(self, reference: Any) -> tuple[Call, Any]:
        """A call's outcome; LOST when its worker is gone and another one is to do it."""
        hand, call = self.busy.pop(reference)
        exceptions = self.ray.exceptions
        try:
            told: Answer = self.ray.get(reference)
        except exceptions.RayTaskError as error:  # not the task, which answers with its exceptions: what it was sent
            self.idle.append(hand)
            return call, DiffTalkError(f"{type(error).__name__}: {_first_line(error)}")
        except exceptions.RayError as error:
            return call, self._bereave(hand, call, error)
        if not told.sees:  # its successor says so at once, where the disk is still gone
            return call, self._bereave(hand, call, told.outcome)
        self.idle.append(hand)
        return call, told.outcome

    def _bereave(self, hand: Hand, call: Call, error: Exception) -> Any:
        """LOST, or why the call is given up. What cannot be reached may live on: it is told to end."""
        self.ray.kill(hand.actor)
        self._look()
        unreachable = isinstance(error, self.ray.exceptions.ActorUnavailableError)  # its node, or the way there
        node_gone = unreachable or hand.node not in self.nodes
        counts, most = (self.losses, LOSSES) if node_gone else (self.deaths, DEATHS)
        counts[call.id] = counts.get(call.id, 0) + 1
        what = f"{hand.host} was lost" if node_gone else f"its worker on {hand.host} was killed"
        if counts[call.id] >= most:
            hint = "" if node_gone else " (out of memory?)"
            return DiffTalkError(f"{what}{hint}, {counts[call.id]} times now; run the same command again to try once more")
        self.runtime.reporter.warn(f"{call.name or call.id}: {what}; another one does it again")
        self.runtime.reporter.log(f"{call.id}: {_first_line(error)}")
        return LOST

    def _note(self, ended: int, all: int, failed: int, seconds: float) -> str:
        hands = [*self.idle, *(hand for hand, _ in self.busy.values())]
        nodes = len({hand.node for hand in hands})
        told = f"{ended}/{all} clips, {ended / max(seconds, 1e-9):.2g} clips/s"
        return told + (f", {failed} failed" if failed else "") + f", {len(hands)} workers on {nodes} nodes"


LOST = object()
"""Stands for the outcome of a call whose worker is gone."""


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
