"""The fleet: what may be used, with limits and prices, at which site; one YAML file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from heterarch.catalog.catalog import DATA, Catalog
from heterarch.catalog.device import Device
from heterarch.catalog.hosted import TokenPrice, listed_price
from heterarch.catalog.server import SourceField
from heterarch.documents import Locate, load_yaml, validate
from heterarch.errors import InputError, UnknownNameError

#: the fleets that come with the package
FLEETS = {name: DATA / f"fleet-{name}.yaml" for name in ("mixed", "laptop")}


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PriceOverride(_Part):
    """The user's own price of a device, in place of the catalogue's quotes: rented per hour, or bought."""

    usd_per_device_h: float | None = Field(default=None, ge=0)
    usd_per_device: float | None = Field(default=None, ge=0)
    date: str = ""
    source: SourceField

    @model_validator(mode="after")
    def _states_a_price(self) -> Self:
        if self.usd_per_device_h is None and self.usd_per_device is None:
            raise ValueError("a price needs usd_per_device_h (rented) or usd_per_device (bought)")
        return self


class FleetDevice(_Part):
    """Devices of one kind: at most ``limit`` (none: as many as asked for), ``owned`` of them already paid for.

    ``server``: the machine they sit in, which bounds tensor parallelism; empty: the largest the catalogue has.
    """

    device: str
    limit: int | None = Field(default=None, ge=0)
    server: str | None = None
    owned: int = Field(default=0, ge=0)
    price: PriceOverride | None = None

    @model_validator(mode="after")
    def _owns_no_more_than_there_are(self) -> Self:
        if self.limit is not None and self.owned > self.limit:
            raise ValueError(f"owned ({self.owned}) is above limit ({self.limit})")
        return self


class FleetEndpoint(_Part):
    """A hosted API that serves one model of the catalogue.

    ``provider`` and ``api_model`` name it in ``genai-prices``, whose price at ``price_date`` (empty: today) holds
    unless ``price`` is given. Rate limits are per minute (none: unlimited). Latencies in seconds, whose origin is
    ``source``: time to first token (p50, p95) and time per output token (p50, and p95 where it is known).
    """

    name: str
    provider: str
    api_model: str
    serves: str
    url: str = ""
    api_key_env: str = ""
    requests_per_min: float | None = Field(default=None, gt=0)
    tokens_per_min: float | None = Field(default=None, gt=0)
    ttft_p50_s: float = Field(gt=0)
    ttft_p95_s: float = Field(gt=0)
    tpot_p50_s: float = Field(gt=0)
    tpot_p95_s: float | None = Field(default=None, gt=0)
    price: TokenPrice | None = None
    price_date: str = ""
    source: SourceField

    @model_validator(mode="after")
    def _tail_is_not_below_the_median(self) -> Self:
        if self.ttft_p95_s < self.ttft_p50_s:
            raise ValueError("ttft_p95_s is below ttft_p50_s")
        if self.tpot_p95_s is not None and self.tpot_p95_s < self.tpot_p50_s:
            raise ValueError("tpot_p95_s is below tpot_p50_s")
        return self

    def token_price(self) -> TokenPrice:
        """Its own price if given, else the listed one; see :func:`heterarch.catalog.hosted.listed_price`."""
        return self.price or listed_price(self.provider, self.api_model, self.price_date)


class FleetLink(_Part):
    """The link between two kinds of devices, where it is not their network cards at full rate.

    ``shared``: one wire that all devices of both kinds share (between sites, say), not one for each pair of devices.
    """

    a: str
    b: str
    link: str
    shared: bool = False


def _unique(names: list[str], what: str) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{what} listed twice: {', '.join(twice)}")


def _unique_devices(devices: list[FleetDevice]) -> list[FleetDevice]:
    _unique([entry.device for entry in devices], "device")
    return devices


def _unique_endpoints(endpoints: list[FleetEndpoint]) -> list[FleetEndpoint]:
    _unique([entry.name for entry in endpoints], "endpoint")
    return endpoints


class Fleet(_Part):
    """What may be used at one site.

    ``accounting``: how devices are priced, unless the command line says otherwise. ``catalog``: overlays with the
    user's own rows, as paths from the folder of the fleet file. ``layerwise_kv``: engines send the KV of a layer when
    it is computed, not all at the end of the prefill.
    """

    name: str
    site: str
    accounting: str | None = None
    catalog: list[str] = []
    devices: Annotated[list[FleetDevice], AfterValidator(_unique_devices)] = []
    endpoints: Annotated[list[FleetEndpoint], AfterValidator(_unique_endpoints)] = []
    links: list[FleetLink] = []
    layerwise_kv: bool = False
    note: str = ""

    @model_validator(mode="after")
    def _has_something(self) -> Self:
        if not self.devices and not self.endpoints:
            raise ValueError("a fleet needs at least one device or endpoint")
        return self

    def device(self, device_id: str) -> FleetDevice:
        """The entry of that device; raises UnknownNameError."""
        found = {entry.device: entry for entry in self.devices}
        if device_id not in found:
            raise UnknownNameError(f"device of fleet {self.name}", device_id, found)
        return found[device_id]

    def sha256(self) -> str:
        """SHA-256 of the fleet's content, without the paths of its overlays."""
        return hashlib.sha256(self.model_dump_json(exclude={"catalog"}).encode()).hexdigest()

    def load_catalog(self) -> Catalog:
        """The packaged catalogue with the fleet's overlays over it."""
        return Catalog.load(*self.catalog)


def load_fleet(path: Path | str, catalog: Catalog | None = None) -> Fleet:
    """Read a fleet file and check every name in it against ``catalog`` (none: the packaged one and its overlays).

    Raises:
        InputError: with file and line: a field that is missing, misspelt or wrong, or a name the catalogue lacks.
    """
    data, locate = load_yaml(path)
    read = validate(Fleet, data, locate)
    folder = Path(path).resolve().parent
    read = read.model_copy(update={"catalog": [str(folder / overlay) for overlay in read.catalog]})
    _check_names(read, catalog or read.load_catalog(), locate)
    return read


def fleet(name_or_path: str | Path, catalog: Catalog | None = None) -> Fleet:
    """A packaged fleet by name (:data:`FLEETS`), or one from a file; see :func:`load_fleet`."""
    name = str(name_or_path)
    if name in FLEETS:
        return load_fleet(FLEETS[name], catalog)
    if not Path(name_or_path).exists() and not name.endswith((".yaml", ".yml")) and "/" not in name:
        raise UnknownNameError("fleet", name, FLEETS, fix="give one of these, or the path of a fleet file")
    return load_fleet(name_or_path, catalog)


def _check_names(read: Fleet, catalog: Catalog, locate: Locate) -> None:
    with _placed(locate, "site"):
        catalog.site(read.site)
    for i, entry in enumerate(read.devices):
        with _placed(locate, "devices", i, "device"):
            device = catalog.device(entry.device)
            _check_known(device)
        with _placed(locate, "devices", i, "server"):
            _check_server(entry, device.id, catalog)
    for i, endpoint in enumerate(read.endpoints):
        with _placed(locate, "endpoints", i, "serves"):
            catalog.model(endpoint.serves)
        with _placed(locate, "endpoints", i, "api_model"):
            endpoint.token_price()
    for i, link in enumerate(read.links):
        with _placed(locate, "links", i):
            catalog.link(link.link)
            catalog.device(link.a)
            catalog.device(link.b)


def _check_known(device: Device) -> None:
    if not device.mem_bytes_per_s:
        raise InputError(
            f"too little is known of {device.id} to use it",
            observed=device.note or "no memory bandwidth",
            expected="mem_bw_gbs and at least one peak",
            fix="complete its row in the overlay, with sources",
        )


def _check_server(entry: FleetDevice, device_id: str, catalog: Catalog) -> None:
    if entry.server is None:
        return
    server = catalog.server(entry.server)
    if server.device != device_id:
        raise InputError(
            f"the server {server.id!r} holds other devices",
            observed=server.device,
            expected=device_id,
            fix=f"servers with it: {', '.join(s.id for s in catalog.servers_of(device_id)) or 'none'}",
        )


@contextmanager
def _placed(locate: Locate, *location: str | int) -> Iterator[None]:
    """Gives an error raised inside the file and line of a place in the document."""
    try:
        yield
    except InputError as error:
        error.where = error.where or locate(location)
        raise
