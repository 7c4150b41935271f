"""A coding agent: a loop of model steps and shell commands over one conversation that outlives the request.

Statistics of the steps and tools are those of the workload ``coding-fleet`` unless a node states its own.
"""

from __future__ import annotations

import json
import shlex
import subprocess

import heterarch as ha

MODEL = "gpt-oss-120b"
SYSTEM = "You are a coding agent. Answer with one shell command per turn, or with DONE and a summary."
ALLOWED = ("ls", "cat", "grep", "head", "wc", "echo")
TRACELAB = ha.Source(ha.Grade.MEASURED, "TraceLab, 8,058 sessions: 73.6 tool-initiated and 8.9 user steps per session")


@ha.tool(effects=True)
def shell(command: str) -> str:
    """Run one command of a short list of harmless ones, without a shell; anything else is refused."""
    try:
        words = shlex.split(command.strip().splitlines()[0]) if command.strip() else []
    except ValueError:
        words = []
    if not words or words[0] not in ALLOWED:
        return json.dumps({"refused": command[:80]})
    done = subprocess.run(words, capture_output=True, text=True, timeout=10, check=False)
    return (done.stdout + done.stderr)[:2000]


def finished(chat: object, observation: str) -> bool:
    """Stop when the model says that it is done."""
    return "DONE" in observation


@ha.agent
def coding_agent(task: ha.Text) -> ha.Text:
    """Work on ``task`` until the model is done; the conversation is kept for the user's next request."""

    def step(chat: ha.Chat, observation: ha.Text) -> tuple[ha.Chat, ha.Text]:
        chat, command = ha.model(MODEL, chat, observation, name="step", max_tokens=4096)
        return chat, shell(command)

    chat = ha.load("chat", ha.chat(SYSTEM))
    chat, result = ha.loop(
        step,
        chat,
        task,
        trips=ha.quantiles(p0=1, p25=3, p50=6, p75=11, p90=20, p100=44, source=TRACELAB),
        until=finished,
        max_trips=40,
    )
    ha.store("chat", chat)
    return result
