"""YAML agents: the same module as Python, and mistakes with their line."""

from __future__ import annotations

from pathlib import Path

import pytest

from heterarch.errors import HeterarchError
from heterarch.graph.load import load_agent
from heterarch.ir.flat import OpKind
from heterarch.ir.flatten import flatten
from heterarch.ir.passes import run_passes
from heterarch.ir.passes.decompose import Decompose

EXAMPLES = Path(__file__).parents[2] / "examples"
TOOLS = """
import heterarch as ha
def split(text: str) -> list[str]: return text.split()
def enough(a: str, b: str = "") -> bool: return True
def join(items: list[str]) -> str: return " ".join(items)
@ha.agent
def sub(text: ha.Text) -> ha.Text:
    return ha.model("M", text)
"""
EVERYTHING = """
heterarch: agent
version: 1
name: everything
inputs: {text: text, sound: audio}
nodes:
  told: {op: model, model: M, inputs: [final, heard, pic, late, best]}
  heard: {op: stt, input: sound, seconds: 0.1}
  pic: {op: image, input: text, seconds: {p50: 2, p95: 4}}
  spoken: {op: tts, input: told.text}
  late: {op: wait, future: started}
  started: {op: spawn, agent: "tools.py:sub", inputs: [text]}
  vector: {op: embed, input: text}
  docs: {op: retrieve, query: text, index: wiki}
  best: {op: rerank, documents: docs, query: text}
  items: {op: compute, using: "tools.py:split", inputs: [text, vector], gives: list}
  each:
    op: map
    over: items
    as: item
    nodes: {one: {op: call, agent: "tools.py:sub", inputs: [item]}}
    yield: one
    width: 3
    join: tools.py:join
  pick:
    op: branch
    on: each
    cases:
      short: {probability: 0.25, nodes: {ask: {op: human, input: text, seconds: 60}}, yield: ask}
      long: {probability: 0.75, yield: text}
  final:
    op: loop
    carry: {said: pick}
    trips: 2
    until: tools.py:enough
    nodes: {more: {op: model, model: M, inputs: [said]}}
    yield: [more]
outputs: [told, spoken]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tools.py").write_text(TOOLS)
    return tmp_path


def write(folder: Path, text: str) -> str:
    (folder / "agent.yaml").write_text(text.lstrip())
    return str(folder / "agent.yaml")


def test_every_node_kind(folder: Path) -> None:
    agent = load_agent(write(folder, EVERYTHING))
    program = flatten(run_passes(agent.module, [Decompose()]))
    kinds = {OpKind(kind) for kind in program.kind}
    assert kinds >= {OpKind.MAP, OpKind.LOOP, OpKind.BRANCH, OpKind.AUDIO, OpKind.IMAGE, OpKind.HUMAN, OpKind.AWAIT}
    assert set(agent.callables) == {"split", "join", "enough"}


def test_the_example_is_the_same_agent_as_in_python() -> None:
    python = flatten(run_passes(load_agent(str(EXAMPLES / "coding_agent.py")).module, [Decompose()]))
    document = flatten(run_passes(load_agent(str(EXAMPLES / "coding_agent.yaml")).module, [Decompose()]))
    assert list(python.kind) == list(document.kind)
    assert list(python.operands) == list(document.operands)
    assert python.value_types == document.value_types


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("inputs: [said]", "inputs: [sad]", "unknown value 'sad'"),
        ("op: human", "op: humen", "human"),
        ("as: item", "az: item", "as"),
        ("trips: 2", "trips: -2", "not negative"),
        ("tools.py:enough", "tools.py:enuff", "enough"),
        ("name: everything", "nam: everything", "name"),
        ("inputs: {text: text,", "inputs: {text: txt,", "text"),
        ("outputs: [told, spoken]", "outputs: [told, spokn]", "spoken"),
    ],
)
def test_mistakes_name_file_line_and_the_nearest(folder: Path, old: str, new: str, message: str) -> None:
    assert old in EVERYTHING
    path = write(folder, EVERYTHING.replace(old, new))
    line = next(i for i, text in enumerate(Path(path).read_text().splitlines(), 1) if new in text)
    with pytest.raises(HeterarchError) as caught:
        load_agent(path)
    assert f"agent.yaml:{line}" in str(caught.value), str(caught.value)
    assert message in str(caught.value)


def test_an_unreachable_node(folder: Path) -> None:
    with pytest.raises(HeterarchError, match=r"agent.yaml:9:\d+: node 'spoken' is unreachable"):
        load_agent(write(folder, EVERYTHING.replace("[told, spoken]", "[told]")))


def test_a_cycle_is_spelt_out(folder: Path) -> None:
    text = """
heterarch: agent
name: a
inputs: {q: text}
nodes:
  one: {op: model, model: M, inputs: [two]}
  two: {op: model, model: M, inputs: [one]}
outputs: [two]
"""
    with pytest.raises(HeterarchError, match=r"one -> two -> one|two -> one -> two"):
        load_agent(write(folder, text))


def test_a_template_and_another_kind_of_document(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    node = "  m: {op: model, model: M, inputs: [q], template: 'x {1}'}"
    head = "heterarch: agent\nname: a\ninputs: {q: text}\nnodes:\n"
    file.write_text(f"{head}{node}\noutputs: [m]\n")
    with pytest.raises(HeterarchError, match=r"a\.yaml:5:3: .*place \{1\}"):
        load_agent(str(file))
    file.write_text("name: f\nsite: us-average\ndevices: []\n")
    with pytest.raises(
        HeterarchError, match=r"this is a fleet \(name, site, devices\); an agent was expected"
    ) as caught:
        load_agent(str(file))
    assert "--fleet FILE" in str(caught.value)


def test_a_misspelt_field_is_compared_with_those_of_its_own_node(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    head = "heterarch: agent\nname: a\ninputs: {q: text}\nnodes:\n"
    file.write_text(f"{head}  tool: {{op: stt, input: q, secods: 1}}\noutputs: [tool]\n")
    with pytest.raises(HeterarchError, match=r"one of seconds, [a-z, ]*$"):
        load_agent(str(file))
