"""`python -m tests.support.faults.server`: forks a process for each run of `lookback`, all imports done before.

A line of JSON in is a run; out come its process id, and when it is over its exit status and what it said. Nothing is
computed before the fork: what a run does is what the command does.
"""

import ctypes
import json
import os
import resource
import selectors
import signal
import sys
import time
import traceback
from importlib import import_module
from types import SimpleNamespace
from typing import Any

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = ("open", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate")


class Watch:
    """Counts what a run changes in a folder, and ends the run at a change or in the middle of the write behind it.

    Args:
        watch: the folder. trace: a file that gets a line for each change.
        kill_at: number of the change before which the process group is killed.
        cut: of the files written from change `kill_at` on, none gets more bytes than this: the kernel ends the
            process within the write that would.
        pause: seconds that the run waits before its first change.
        fill_at: number of the change before which `filler` takes the space of its disk but for `left` bytes.
    """

    def __init__(
        self, watch: str, trace: str | None = None, kill_at: int | None = None, cut: int | None = None,
        pause: float = 0.0, fill_at: int | None = None, filler: str = "", left: int = 0,
    ):  # fmt: skip
        self.folder, self.kill_at, self.cut, self.pause, self.count = watch, kill_at, cut, pause, 0
        self.fill_at, self.filler, self.left = fill_at, filler, left
        self.trace = None if trace is None else os.open(trace, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in CHANGES or not self._inside(event, arguments):
            return
        if self.trace is not None:
            os.write(self.trace, f"{event} {' '.join(map(str, arguments))}\n".encode())
        time.sleep(self.pause if self.count == 0 else 0)
        if self.fill_at == self.count:
            fill(self.filler, self.left)
        self.count += 1
        if self.kill_at != self.count - 1:
            return
        if self.cut is None:
            os.kill(0, signal.SIGKILL)
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.cut, self.cut))

    def _inside(self, event: str, arguments: tuple[Any, ...]) -> bool:
        if event == "open" and not (arguments[2] or 0) & WRITING:
            return False
        by_handle = event in ("os.remove", "os.rmdir") and arguments[1] not in (None, -1)  # shutil.rmtree
        path = arguments[0]
        return by_handle or (isinstance(path, str | bytes | os.PathLike) and os.fspath(path).startswith(self.folder))


def fill(filler: str, left: int) -> None:
    """Take the space of a disk but for `left` bytes."""
    disk = os.statvfs(os.path.dirname(filler))
    handle = os.open(filler, os.O_WRONLY | os.O_CREAT)
    os.posix_fallocate(handle, 0, max(disk.f_bavail * disk.f_frsize - left, 1))
    os.close(handle)


def use_hub(endpoint: str, home: str) -> None:
    """The Hub client's settings, which it reads at its import; its cache lies in `home`."""
    client = import_module("tests.support.loopback_hub.client")
    client.in_process(SimpleNamespace(endpoint=endpoint), import_module("pytest").MonkeyPatch(), home)


def drop_rights() -> None:
    """Have root stopped by the permissions of files as anybody is."""
    header, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    if ctypes.CDLL(None, use_errno=True).capset(header, none):
        raise OSError(ctypes.get_errno(), "capset")


def run(request: dict[str, Any]) -> int:
    os.environ.update(request.get("env", {}))
    if request.get("watch"):
        sys.addaudithook(Watch(**request["watch"]))
    if request.get("hub"):
        use_hub(*request["hub"])
    if request.get("no_rights"):
        drop_rights()
    sys.argv = ["lookback", *request["argv"]]
    try:
        import_module("trainers.cli").main()
    except SystemExit as ended:
        if not isinstance(ended.code, int | None):
            print(ended.code, file=sys.stderr)
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def fork(request: dict[str, Any]) -> tuple[int, int]:
    """(process id, the pipe that what it says comes through) of a run, in a session of its own."""
    reading, writing = os.pipe()
    ready, say_ready = os.pipe()
    if pid := os.fork():
        os.close(writing)
        os.close(say_ready)
        os.read(ready, 1)
        os.close(ready)
        return pid, reading
    os.setsid()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    nothing = os.open(os.devnull, os.O_RDONLY)
    for handle, place in ((nothing, 0), (writing, 1), (writing, 2)):
        os.dup2(handle, place)
    sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1)
    os.write(say_ready, b".")
    os.closerange(3, 256)
    status = 1
    try:
        status = run(request)
        sys.stdout.flush()
    finally:
        os._exit(status)


def main() -> None:
    for name in ("finetune", "pretrain", "train_lm", "score", "mine", "encode", "evaluate", "perplexity", "generate"):
        import_module(f"trainers.commands.{name}")
    for name in ("merge", "convert", "explain", "push", "pull"):
        import_module(f"trainers.commands.{name}")
    for name in ("transformers.models.llama.modeling_llama", "matplotlib.backends.backend_agg", "matplotlib.figure"):
        import_module(name)
    answers, said = os.fdopen(os.dup(1), "w", buffering=1), {}
    os.dup2(2, 1)
    selector = selectors.DefaultSelector()
    selector.register(0, selectors.EVENT_READ)
    print(json.dumps({"ready": True}), file=answers)
    waiting = b""
    while True:
        for key, _ in selector.select():
            data = os.read(key.fd, 1 << 16)
            if key.fd == 0:
                if not data:
                    return
                *lines, waiting = (waiting + data).split(b"\n")
                for line in lines:
                    pid, pipe = fork(json.loads(line))
                    said[pipe] = b""
                    selector.register(pipe, selectors.EVENT_READ, pid)
                    print(json.dumps({"pid": pid}), file=answers)
            elif data:
                said[key.fd] += data
            else:
                selector.unregister(key.fd)
                os.close(key.fd)
                status = os.waitstatus_to_exitcode(os.waitpid(key.data, 0)[1])
                text = said.pop(key.fd).decode(errors="replace")
                print(json.dumps({"ended": key.data, "status": status, "said": text}), file=answers)


if __name__ == "__main__":
    main()
