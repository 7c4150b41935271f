"""Finding an agent by what a user types."""

from __future__ import annotations

from pathlib import Path

import pytest

from heterarch.errors import HeterarchError, InputError
from heterarch.graph.load import load_agent
from heterarch.graph.reference import reference, resolve

AGENT = "import heterarch as ha\n@ha.agent\ndef {name}(q: ha.Text) -> ha.Text:\n    return ha.model('M', q)\n"


def test_by_file_stem_by_name_and_alone(tmp_path: Path) -> None:
    both = tmp_path / "one.py"
    both.write_text(AGENT.format(name="one") + AGENT.format(name="two").partition("\n")[2])
    assert load_agent(str(both)).name == "one"
    assert load_agent(f"{both}:two").name == "two"
    alone = tmp_path / "other.py"
    alone.write_text(AGENT.format(name="solo"))
    assert load_agent(str(alone)).name == "solo"


@pytest.mark.parametrize(
    ("content", "suffix", "message"),
    [
        ("x = 1\n", "", "no agent in the module"),
        (AGENT.format(name="one"), ":on", "unknown agent"),
        (AGENT.format(name="a") + AGENT.format(name="b"), "", "several agents"),
        ("def broken(:\n", "", "agent_file.py:1"),
    ],
)
def test_errors(tmp_path: Path, content: str, suffix: str, message: str) -> None:
    file = tmp_path / "agent_file.py"
    file.write_text(content)
    with pytest.raises(HeterarchError, match=message):
        load_agent(f"{file}{suffix}")


def test_missing() -> None:
    with pytest.raises(HeterarchError, match="no such Python file"):
        load_agent("nowhere.py")
    with pytest.raises(HeterarchError, match="cannot import module"):
        load_agent("no_such_module_here")


def test_a_reference_resolves_to_the_function() -> None:
    found = reference(load_agent)
    assert found.ref == "heterarch.graph.load:load_agent"
    assert resolve(found.ref) is load_agent
    assert len(found.sha256) == 64


def test_a_reference_that_is_almost_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "triag.py").write_text(AGENT.format(name="triag"))
    monkeypatch.chdir(tmp_path)
    for typed in ("triag", "./triag", "traig"):
        with pytest.raises(InputError, match=r"did you mean (\./)?triag\.py\?"):
            load_agent(typed)
    for typed in (".", ""):
        with pytest.raises(InputError, match="this is a folder") as caught:
            load_agent(typed)
        assert "triag.py" in str(caught.value)
    with pytest.raises(InputError, match="no such file"):
        load_agent("./zzzzzzzz")
