"""Both text forms round-trip, with locations, and upstream MLIR reads the generic one."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heterarch.errors import InputError
from heterarch.graph.load import load_agent
from heterarch.ir.passes import parse_passes, run_passes
from heterarch.ir.text import parse_module, print_module
from heterarch.ir.types import DistributionAttr
from heterarch.units import Grade, Source
from heterarch.workload.distribution import Distribution, constant

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*_*.py"))
MLIR_OPT = next((tool for tool in ("mlir-opt-19", "mlir-opt") if shutil.which(tool)), None)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
@pytest.mark.parametrize("lowered", [False, True])
@pytest.mark.parametrize("generic", [False, True])
def test_round_trip(path: Path, lowered: bool, generic: bool) -> None:
    module = load_agent(str(path)).module
    if lowered:
        module = run_passes(module, parse_passes('decompose,place{assign="*=pool"}'), verify_each=True)
    text = print_module(module, generic=generic)
    again = parse_module(text)
    assert again.is_structurally_equivalent(module)
    assert print_module(again, generic=generic) == text
    assert f"{path.name}" in text  # locations are in the text


@pytest.mark.skipif(MLIR_OPT is None, reason="mlir-opt not found (Debian package mlir-19-tools)")
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_upstream_reads_the_generic_form(path: Path) -> None:
    assert MLIR_OPT is not None
    module = run_passes(load_agent(str(path)).module, parse_passes('decompose,place{assign="*=pool"}'))
    done = subprocess.run(
        [MLIR_OPT, "--allow-unregistered-dialect", "--mlir-print-op-generic"],
        input=print_module(module, generic=True), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert parse_module(done.stdout).is_structurally_equivalent(module)


@st.composite
def distributions(draw: st.DrawFn) -> Distribution:
    probabilities = sorted(draw(st.sets(st.integers(0, 1000), min_size=2, max_size=8)))
    numbers = st.floats(0, 1e30, allow_nan=False, allow_subnormal=False)
    values = sorted(draw(st.lists(numbers, min_size=len(probabilities), max_size=len(probabilities))))
    source = Source(draw(st.sampled_from(Grade)), draw(st.text("ab \"\\<>,'", max_size=9)))
    return Distribution(tuple(p / 1000 for p in probabilities), tuple(values), source)


@given(distributions())
def test_statistics_round_trip_exactly(distribution: Distribution) -> None:
    text = f'agent.graph @g() -> !agent.chat {{\n %c = agent.chat "c"() {{system = "", tokens_in = {DistributionAttr(distribution)}}} : () -> !agent.chat\n agent.yield %c : !agent.chat }}'
    op = next(o for o in parse_module(text).walk() if o.name == "agent.chat")
    attribute = op.properties["tokens_in"]
    assert isinstance(attribute, DistributionAttr)
    assert attribute.data.values == distribution.values
    assert attribute.data.probabilities == pytest.approx(distribution.probabilities, abs=1e-12)
    assert attribute.data.source == distribution.source
    assert str(attribute) == str(DistributionAttr(distribution))


def test_constant_is_a_number() -> None:
    assert str(DistributionAttr(constant(216))) == "#agent.dist<216.0>"


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ('agent.graph @g() {\n  %x = agent.modle "a"() : () -> !agent.text\n}', 2, "agent.modle is not registered"),
        ('agent.graph @g() {\n  %c = agent.chat "a"() {sytem = ""} : () -> !agent.chat\n}', 2, "did you mean system"),
        ('agent.graph @g() {\n  %c = agent.chat "a"() {system = "", tokens_in = #agent.dist<p95 = 2.0, p50 = 1.0>} : () -> !agent.chat\n}', 2, "ascend"),
        ("agent.graph @g() {", 1, "block"),
    ],
)  # fmt: skip
def test_syntax_errors_name_the_line(text: str, line: int, message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_module(text, "file.mlir")
    assert f"file.mlir:{line}:" in str(caught.value)
    assert message in str(caught.value)


@given(st.integers(0, 10_000), st.text('{}()<>"%@:,=#!ab1\\\n', max_size=3), st.integers(0, 30))
def test_malformed_text_is_never_a_crash(place: int, put: str, cut: int) -> None:
    text = print_module(load_agent(str(EXAMPLES[0])).module)
    place %= len(text)
    with contextlib.suppress(InputError):
        parse_module(text[:place] + put + text[place + cut :], "file.mlir")
