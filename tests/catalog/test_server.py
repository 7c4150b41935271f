"""Servers, links and sites."""

from __future__ import annotations

import pytest

from heterarch.catalog import Catalog, Link, Server, Site
from heterarch.errors import InputError, UnknownNameError
from heterarch.units import Grade


def test_every_number_has_a_graded_source(catalog: Catalog) -> None:
    rows: list[Server | Link | Site] = [*catalog.servers.values(), *catalog.links.values(), *catalog.sites.values()]
    assert len(rows) > 50
    for row in rows:
        for name in row.model_fields_set:
            if isinstance(getattr(row, name), int | float):
                assert row.source(name).citation, (row.id, name)


def test_servers_hold_known_devices_on_known_links(catalog: Catalog) -> None:
    for server in catalog.servers.values():
        device = catalog.device(server.device)
        if device.scaleup_domain and server.scaleup.startswith(("nvlink", "infinity", "gaudi")):
            assert server.devices == device.scaleup_domain
            assert catalog.link(server.scaleup).bytes_per_s == device.scaleup_bytes_per_s
        if device.nic_bytes_per_s and server.nic and device.device_class != "cpu":
            total = catalog.link(server.nic).bytes_per_s * server.nics
            assert total == server.devices * device.nic_bytes_per_s, server.id


def test_links_are_per_direction(catalog: Catalog) -> None:
    assert catalog.link("nvlink4").bytes_per_s == 450e9
    assert catalog.link("roce-400").bytes_per_s == catalog.link("ib-400").bytes_per_s == 50e9
    assert catalog.link("pcie5-x16").bytes_per_s == 64e9


def test_measured_and_guessed_are_told_apart(catalog: Catalog) -> None:
    a100 = catalog.server("hgx-a100-80-8")
    assert (a100.idle_w, a100.source("idle_w").grade) == (1500, Grade.MEASURED)
    assert catalog.server("hgx-b200-8").source("idle_w").grade == Grade.GUESS
    assert catalog.link("wan-same-cloud").source("bytes_per_s").grade == Grade.MEASURED


def test_the_founding_papers_site(catalog: Catalog) -> None:
    site = catalog.site("founding-paper")
    assert (site.usd_per_kwh, site.pue, site.gco2e_per_kwh) == (0.40, 1.0, None)
    with pytest.raises(InputError, match="does not give gco2e_per_kwh"):
        site.source("gco2e_per_kwh")
    with pytest.raises(UnknownNameError, match="'price'"):
        site.source("price")


def test_servers_of_a_device(catalog: Catalog) -> None:
    assert [s.id for s in catalog.servers_of("h100-sxm")] == ["hgx-h100-8"]
    assert catalog.servers_of("tpu-v5e") == ()


def test_rows_are_values(catalog: Catalog) -> None:
    assert {catalog.site("germany"): 1}[Catalog.load().site("germany")] == 1
