"""The catalogue: devices, models, prices, servers, links and sites, and the fleets made of them."""

from heterarch.catalog.attention import AttentionLayers
from heterarch.catalog.catalog import Catalog
from heterarch.catalog.config_json import read_config
from heterarch.catalog.device import Device
from heterarch.catalog.dtype import BYTES_PER_VALUE, bytes_per_value, canonical_dtype
from heterarch.catalog.fleet import (
    FLEETS,
    Fleet,
    FleetDevice,
    FleetEndpoint,
    FleetLink,
    PriceOverride,
    fleet,
    load_fleet,
)
from heterarch.catalog.hosted import TokenPrice, listed_price
from heterarch.catalog.model import Model
from heterarch.catalog.plausible import CatalogWarning
from heterarch.catalog.price import QUOTE_KINDS, Quote
from heterarch.catalog.server import Link, Server, Site

__all__ = [
    "BYTES_PER_VALUE",
    "FLEETS",
    "QUOTE_KINDS",
    "AttentionLayers",
    "Catalog",
    "CatalogWarning",
    "Device",
    "Fleet",
    "FleetDevice",
    "FleetEndpoint",
    "FleetLink",
    "Link",
    "Model",
    "PriceOverride",
    "Quote",
    "Server",
    "Site",
    "TokenPrice",
    "bytes_per_value",
    "canonical_dtype",
    "fleet",
    "listed_price",
    "load_fleet",
    "read_config",
]
