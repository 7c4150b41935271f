"""Which fit a kernel uses, what it makes of a neighbour's, and how sure it is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from heterarch.catalog.catalog import Catalog
from heterarch.catalog.device import Device
from heterarch.cost.document import Calibration, Centres, Fit
from heterarch.cost.host import GRACE_PACE
from heterarch.cost.kernels.gemm import AXES
from heterarch.cost.library import FORMAT_SIGMA, TRANSFER_SIGMA, Library, default_library
from heterarch.errors import InputError, UnknownNameError
from heterarch.units import Grade

from .conftest import lossless

SHAPES = {"m": 4096.0, "n": 4096.0, "k": 4096.0}
FLOPS = 2 * 4096.0**3


def library(catalog: Catalog, *calibrations: list[Fit], **fields: Any) -> Library:
    documents = [
        Calibration(name=f"number {n}", date="2026-01-01", fits=fits, **fields) for n, fits in enumerate(calibrations)
    ]
    return Library(documents, catalog.devices)


def used(found: Library, device: Device, dtype: str = "bf16", engine: str = "", family: str = "gemm") -> str:
    """What the citation says of the kernel."""
    return found.kernel(family, device, dtype, engine).source.citation


# ---- the shipped calibration


@pytest.mark.parametrize(
    ("device", "donor", "grade"),
    [
        ("h100-sxm", "h100-sxm", Grade.FITTED),
        ("h200-sxm", "h100-sxm", Grade.DERIVED),
        ("h100-pcie", "h100-sxm", Grade.DERIVED),
        ("b300", "b200", Grade.DERIVED),
        ("gb300-nvl72", "gb200-nvl72", Grade.DERIVED),
        ("a100-40-pcie", "a100-80-sxm", Grade.DERIVED),
    ],
)
@pytest.mark.parametrize("family", ["gemm", "attention_prefill", "attention_decode", "moe", "all_reduce"])
def test_donors_of_the_shipped_calibration(
    catalog: Catalog, device: str, donor: str, grade: Grade, family: str
) -> None:
    source = default_library().kernel(family, catalog.device(device), "bf16").source
    assert f"{family} on {donor} (" in source.citation
    assert source.grade is grade


@pytest.mark.parametrize(
    "family", ["gemm", "attention_prefill", "attention_decode", "moe", "all_reduce", "elementwise"]
)
def test_an_unmeasured_nvidia_device_uses_the_law_of_a_measured_one(catalog: Catalog, family: str) -> None:
    kernel = default_library().kernel(family, catalog.device("l40s"), "bf16")
    donor = kernel.source.citation.split(" on ")[1].split(" (")[0]
    assert catalog.device(donor).vendor == "nvidia"
    assert (kernel.relation, kernel.source.grade, len(kernel.weights)) == ("other", Grade.GUESS, 0)


@pytest.mark.parametrize("device", ["gaudi3", "cpu-vcpu", "mi300x", "jetson-agx-orin-64"])
def test_classes_without_measurements_are_guesses(catalog: Catalog, device: str) -> None:
    kernel = default_library().kernel("gemm", catalog.device(device), "bf16")
    assert (kernel.relation, kernel.source.grade) == ("guess", Grade.GUESS)
    assert kernel.basis is None


def test_every_device_with_a_16_bit_peak_is_predicted(catalog: Catalog) -> None:
    for device in catalog.devices.values():
        if "bf16" in device.peaks and device.mem_bytes_per_s:
            kernel = default_library().kernel("gemm", device, "bf16")
            roofline = max(FLOPS / device.peaks["bf16"], 3 * 2 * 4096**2 / device.mem_bytes_per_s)
            assert roofline < kernel.seconds(SHAPES)[0] < 20 * roofline, device.id


# ---- the order of donors


def test_the_device_itself_comes_before_its_siblings(catalog: Catalog) -> None:
    own = library(catalog, [lossless("gemm", "h100-sxm"), lossless("gemm", "h200-sxm")])
    assert "on h200-sxm" in used(own, catalog.device("h200-sxm"))
    assert "on h100-sxm" in used(own, catalog.device("h100-sxm"))


def test_siblings_come_before_other_architectures_and_the_nearest_first(catalog: Catalog) -> None:
    fits = [lossless("gemm", name) for name in ("a100-80-sxm", "h100-pcie", "h100-sxm", "b200")]
    assert "on h100-sxm" in used(library(catalog, fits), catalog.device("h200-sxm"))
    assert "on h100-pcie" in used(library(catalog, fits[:2]), catalog.device("h200-sxm"))
    distant = library(catalog, [fits[0], fits[3]]).kernel("gemm", catalog.device("h200-sxm"), "bf16")
    assert distant.relation == "other"


def test_one_architecture_is_not_enough_where_the_chips_differ(catalog: Catalog) -> None:
    """L40S has 2.2 times the 16-bit peak of RTX 4090, on the same architecture."""
    kernel = library(catalog, [lossless("gemm", "rtx4090")]).kernel("gemm", catalog.device("l40s"), "bf16")
    assert kernel.relation == "other"


def test_a_scale_up_domain_tells_racks_from_servers(catalog: Catalog) -> None:
    fits = library(catalog, [lossless("all_reduce", "b200"), lossless("all_reduce", "gb200-nvl72")])
    for device, donor in (("b300", "b200"), ("gb300-nvl72", "gb200-nvl72")):
        assert f"on {donor}" in used(fits, catalog.device(device), family="all_reduce")


def test_a_vendor_comes_before_bandwidth(catalog: Catalog) -> None:
    fits = library(catalog, [lossless("gemm", "arc-pro-b60"), lossless("gemm", "b200")])
    assert "on b200" in used(fits, catalog.device("l4"))


def test_the_named_engine_is_preferred_and_not_required(catalog: Catalog) -> None:
    fits = library(catalog, [lossless("gemm", engine=name) for name in ("vllm", "sglang")])
    device = catalog.device("h100-sxm")
    assert used(fits, device, engine="sglang").startswith("sglang")
    assert used(fits, device, engine="vllm").startswith("vllm")
    assert used(fits, device, engine="trtllm").startswith(("vllm", "sglang"))
    near = library(
        catalog, [lossless("gemm", "h100-pcie", engine="sglang"), lossless("gemm", "h100-sxm", engine="vllm")]
    )
    assert used(near, device, engine="sglang").startswith("vllm"), "the device counts more than the engine"


def test_the_users_calibration_comes_first(catalog: Catalog) -> None:
    device = catalog.device("h100-sxm")
    both = library(catalog, [lossless("gemm", compute=0.5)], [lossless("gemm", compute=0.8)])
    assert "number 0" in used(both, device)
    assert both.kernel("gemm", device, "bf16").law.compute == 0.5
    elsewhere = library(catalog, [lossless("gemm", "h200-sxm")], [lossless("gemm")])
    assert "number 1" in used(elsewhere, device), "a measurement of the device before one of a sibling"
    other_format = library(catalog, [lossless("gemm")], [lossless("gemm", dtype="fp8")])
    assert "number 1" in used(other_format, device, "fp8"), "a measured format before one that is alike"


def test_a_missing_family_is_an_error_unless_guessed(catalog: Catalog) -> None:
    empty = library(catalog, [lossless("moe")])
    with pytest.raises(InputError) as caught:
        empty.kernel("gemm", catalog.device("h100-sxm"), "bf16")
    assert "number 0" in str(caught.value)
    assert empty.kernel("gemm", catalog.device("gaudi3"), "bf16").relation == "guess"


def test_a_device_without_a_peak_is_an_error(catalog: Catalog) -> None:
    with pytest.raises(InputError):
        library(catalog, [lossless("gemm")]).kernel("gemm", catalog.device("ascend-910b"), "bf16")
    with pytest.raises((InputError, UnknownNameError, KeyError)):
        library(catalog, [lossless("gemm")]).kernel("gemm", catalog.device("h100-sxm"), "no-format")


# ---- what a fit gives elsewhere


def test_the_law_takes_the_peaks_of_the_device_it_predicts(catalog: Catalog) -> None:
    fits = library(catalog, [lossless("gemm", compute=0.5, memory=0.5)])
    for name in ("h100-sxm", "h200-sxm", "b200"):
        device = catalog.device(name)
        assert fits.kernel("gemm", device, "bf16").seconds(SHAPES) == pytest.approx(FLOPS / (0.5 * device.peak("bf16")))
        read = {**SHAPES, "m": 1.0}
        moved = 2 * (4096 + 4096**2 + 4096)
        assert fits.kernel("gemm", device, "bf16").seconds(read) == pytest.approx(
            moved / (0.5 * device.mem_bytes_per_s)
        )


def test_what_if_devices_are_devices_of_their_own(catalog: Catalog) -> None:
    fits, device = library(catalog, [lossless("gemm")]), catalog.device("h100-sxm")
    before = fits.kernel("gemm", device, "bf16").seconds(SHAPES)
    doubled = replace(device, peaks={**device.peaks, "bf16": 2 * device.peaks["bf16"]})
    assert fits.kernel("gemm", doubled, "bf16").seconds(SHAPES) == pytest.approx(before / 2)
    assert fits.kernel("gemm", device, "bf16").seconds(SHAPES) == before


def test_other_generations_give_their_mean_law(catalog: Catalog) -> None:
    """Each generation counts once, and only chips of the vendor of the nearest one."""
    shares = {"a100-80-sxm": 0.8, "b200": 0.1, "gb200-nvl72": 0.4, "arc-pro-b60": 0.9}
    fits = library(catalog, [lossless("gemm", name, compute=share) for name, share in shares.items()])
    kernel = fits.kernel("gemm", catalog.device("h100-sxm"), "bf16")
    assert kernel.relation == "other"
    assert kernel.law.compute == pytest.approx(np.sqrt(0.8 * np.sqrt(0.1 * 0.4)))


@pytest.mark.parametrize(
    ("donor", "device", "pace"),
    [("b200", "b300", 1.0), ("gb200-nvl72", "gb300-nvl72", 1.0), ("b200", "gb300-nvl72", GRACE_PACE),
     ("gb200-nvl72", "b200", 1 / GRACE_PACE), ("gb200-nvl72", "h100-sxm", 1 / GRACE_PACE)],
)  # fmt: skip
def test_launches_take_as_long_as_the_hosts_of_the_device(
    catalog: Catalog, donor: str, device: str, pace: float
) -> None:
    fits = library(catalog, [lossless("gemm", donor, host_s=1e-3)])
    kernel = fits.kernel("gemm", catalog.device(device), "bf16")
    assert kernel.law.host_s == pytest.approx(1e-3 * pace)
    assert kernel.captured.seconds(SHAPES) < kernel.seconds(SHAPES) == pytest.approx(1e-3 * pace)


def test_collectives_use_the_rate_of_the_link(catalog: Catalog) -> None:
    fits, device = library(catalog, [lossless("all_reduce")]), catalog.device("h100-sxm")
    message = {"message_bytes": 1e9, "devices": 4.0}
    for rate in (450e9, 50e9):
        kernel = fits.kernel("all_reduce", device, "bf16", bandwidth=rate)
        assert kernel.seconds(message) == pytest.approx(2 * (3 / 4) * 1e9 / rate)


def residual_library(catalog: Catalog) -> Library:
    """H100 in two formats with a residual of +0.5 in log time around 4096^3, measured between 2^10 and 2^13."""
    centres = Centres(axes=list(AXES), scales=[[2.0] * len(AXES)], centres=[[12.0] * 3 + [0.0] * (len(AXES) - 3)])
    domain = {axis: (10.0, 13.0) if axis.startswith("log2") else (0.0, 1.0) for axis in AXES}
    fit = lossless("gemm", weights=[0.5], domain=domain, sigma=0.1, law_sigma=0.4)
    return library(catalog, [fit], families={"gemm": centres})


@pytest.mark.parametrize(
    ("device", "dtype", "expected"),
    [("h100-sxm", "bf16", 0.5), ("h200-sxm", "bf16", 0.5), ("b200", "bf16", 0.0), ("h100-sxm", "fp8", 0.0)],
)
def test_the_residual_goes_to_siblings_in_the_same_format_alone(
    catalog: Catalog, device: str, dtype: str, expected: float
) -> None:
    kernel = residual_library(catalog).kernel("gemm", catalog.device(device), dtype)
    law = FLOPS / catalog.device(device).peak(dtype)
    assert np.log(kernel.seconds(SHAPES) / law)[0] == pytest.approx(expected, abs=1e-6)


def test_a_residual_fades_outside_what_was_measured(catalog: Catalog) -> None:
    kernel = residual_library(catalog).kernel("gemm", catalog.device("h100-sxm"), "bf16")
    far = {"m": 2.0**40, "n": 4096.0, "k": 4096.0}
    assert kernel.seconds(far) == pytest.approx(2.0**41 * 4096**2 / catalog.device("h100-sxm").peak("bf16"))


def test_sigma_grows_outside_the_domain(catalog: Catalog) -> None:
    kernel = residual_library(catalog).kernel("gemm", catalog.device("h100-sxm"), "bf16")
    sizes = {"m": 2.0 ** np.array([12.0, 14.0, 16.0, 40.0]), "n": 4096.0, "k": 4096.0}
    sigma = kernel.estimate(sizes).sigma
    assert sigma[0] == pytest.approx(0.1)
    assert sigma[3] == pytest.approx(0.4)
    assert np.all(np.diff(sigma) > 0)


def test_sigma_grows_with_the_distance_of_the_transfer(catalog: Catalog) -> None:
    found = residual_library(catalog)
    sigma = {
        name: found.kernel("gemm", catalog.device(name), "bf16").estimate(SHAPES).sigma[0]
        for name in ("h100-sxm", "h200-sxm", "b200", "gaudi3")
    }
    assert sigma["h200-sxm"] == pytest.approx(np.hypot(0.1, TRANSFER_SIGMA["sibling"]))
    assert sigma["b200"] == pytest.approx(np.hypot(0.4, TRANSFER_SIGMA["other"]))
    assert list(sigma.values()) == sorted(sigma.values())
    other_format = found.kernel("gemm", catalog.device("h100-sxm"), "fp8").estimate(SHAPES).sigma[0]
    assert other_format == pytest.approx(np.hypot(0.4, FORMAT_SIGMA))


def test_an_estimate_has_the_parts_of_the_law(catalog: Catalog) -> None:
    kernel = library(catalog, [lossless("gemm", overhead_s=5e-6, sharpness=1.0)]).kernel(
        "gemm", catalog.device("h100-sxm"), "bf16"
    )
    found = kernel.estimate(SHAPES)
    assert found.compute_s == pytest.approx(FLOPS / 989e12)
    assert found.memory_s == pytest.approx(3 * 2 * 4096**2 / 3.35e12)
    assert found.seconds == pytest.approx(found.compute_s + found.memory_s + 5e-6)
