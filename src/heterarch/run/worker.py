"""A worker: one process that runs one llama.cpp engine on the loopback interface.

Started as ``python -m heterarch.run.worker``. Its first line on standard output is one JSON object: ``{"url":
...}`` when it is ready, or ``{"error": ..., "observed": ..., "fix": ...}``. It ends as soon as its standard input
is closed, which the kernel does however its parent dies, so no worker outlives its parent. It never writes anything
else to standard output.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the engine until standard input closes; the exit code is 0, or 4 when the engine cannot start."""
    arguments = _parser().parse_args(argv)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    ready = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever the library prints goes to the log
    watch = threading.Thread(target=_end_with_parent, daemon=True)
    watch.start()
    try:
        answer = {"url": _serve(arguments)}
    except _StartError as error:
        answer = error.args[0]
    print(json.dumps(answer), file=ready, flush=True)
    if "error" in answer:
        return 4
    watch.join()
    return 0


class _StartError(Exception):
    """Why the engine cannot start, as the JSON object for the parent."""


#: keeps the server object alive for as long as the process
_SERVERS: list[object] = []


def _end_with_parent() -> None:
    while os.read(0, 4096):
        pass
    os._exit(0)


def _serve(arguments: argparse.Namespace) -> str:
    _check_port(arguments.port)
    try:
        import xllamacpp
    except ImportError:
        raise _StartError(
            {"error": "a local engine needs the package xllamacpp", "fix": "pip install heterarch[local]"}
        ) from None
    parameters = xllamacpp.CommonParams()
    parameters.model.path = arguments.model
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = arguments.port
    parameters.n_parallel = arguments.slots
    parameters.n_ctx = arguments.context * arguments.slots
    parameters.cpuparams.n_threads = arguments.threads
    parameters.cpuparams_batch.n_threads = arguments.threads
    parameters.slot_save_path = arguments.kv_folder.rstrip("/") + "/"
    parameters.cache_ram_mib = 0  # KV stays in the slots, where it is accounted for
    parameters.embedding = arguments.embed
    parameters.warmup = False
    try:
        server = xllamacpp.Server(parameters)
    except RuntimeError as error:
        raise _StartError(
            {
                "error": "llama.cpp cannot load the model",
                "observed": f"{arguments.model}: {error}",
                "fix": "is the file a GGUF model, and is there memory for it and its context?",
            }
        ) from None
    _SERVERS.append(server)
    return str(server.listening_address)


def _check_port(port: int) -> None:
    if port == 0:
        return
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise _StartError(
                {"error": f"port {port} is in use", "observed": str(error), "fix": "choose another, or 0 for any"}
            ) from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="heterarch.run.worker")
    parser.add_argument("--model", required=True, help="GGUF file")
    parser.add_argument("--kv-folder", required=True, help="folder that KV is exported to and imported from")
    parser.add_argument("--port", type=int, default=0, help="0: any free port")
    parser.add_argument("--slots", type=int, default=1)
    parser.add_argument("--context", type=int, default=4096, help="tokens per slot")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--embed", action="store_true")
    return parser


if __name__ == "__main__":
    sys.exit(main())
