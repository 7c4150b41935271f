"""Guessed laws of device classes that nobody measured."""

from __future__ import annotations

import pytest

from heterarch.catalog.catalog import Catalog
from heterarch.catalog.device import Device
from heterarch.cost.host import BY_CLASS, host_work
from heterarch.cost.priors import ARCHITECTURES, CLASSES, PADDING, prior
from heterarch.units import Grade

#: classes whose devices were measured, so that a fit of another device stands in
MEASURED = {"gpu-dc", "gpu-consumer", "gpu-workstation", "rack", "superchip"}


def test_every_class_of_the_catalogue_is_guessed_or_measured(catalog: Catalog) -> None:
    classes = {device.device_class for device in catalog.devices.values()}
    assert classes - set(CLASSES) <= MEASURED
    assert set(CLASSES) <= classes
    assert set(BY_CLASS) <= classes


@pytest.fixture(scope="module")
def guessed(catalog: Catalog) -> list[Device]:
    """Devices of classes and architectures that nobody measured."""
    return [
        device for device in catalog.devices.values() if device.device_class in CLASSES or device.arch in ARCHITECTURES
    ]


@pytest.mark.parametrize(
    "family", ["gemm", "attention_prefill", "attention_decode", "moe", "elementwise", "all_reduce"]
)
def test_guesses_stay_below_the_data_sheet(guessed: list[Device], family: str) -> None:
    assert {"mi300x", "gaudi3", "cpu-vcpu"} <= {device.id for device in guessed}
    for device in guessed:
        law = prior(device, family)
        assert law is not None
        padded = PADDING if (device.device_class, family) == ("cpu", "attention_decode") else 1.0
        assert 0 < law.compute < padded
        assert 0 < law.memory < 1
        assert 1e-6 < law.overhead_s < 1e-4


def test_attention_reaches_less_than_the_linear_layers(guessed: list[Device]) -> None:
    for device in guessed:
        linear, attention = prior(device, "gemm"), prior(device, "attention_prefill")
        assert linear is not None
        assert attention is not None
        assert attention.compute == pytest.approx(0.6 * linear.compute)
        assert attention.memory == pytest.approx(0.9 * linear.memory)
        assert attention.overhead_s == linear.overhead_s


def test_an_architecture_is_guessed_before_its_class(catalog: Catalog) -> None:
    laws = {
        name: prior(catalog.device(name), "gemm") for name in ("mi300x", "mi355x", "h100-sxm", "l40s", "arc-pro-b60")
    }
    assert laws["mi300x"] is not None
    assert laws["mi300x"] == laws["mi355x"]
    assert [laws[name] for name in ("h100-sxm", "l40s", "arc-pro-b60")] == [None] * 3


def test_an_edge_board_takes_longer_beside_its_kernels() -> None:
    edge, server = host_work("edge"), host_work("gpu-dc")
    assert edge.step_s > server.step_s > 0
    assert (edge.source.grade, server.source.grade) == (Grade.GUESS, Grade.FITTED)
    assert host_work("cpu") == server
