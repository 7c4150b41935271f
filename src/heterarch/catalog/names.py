"""The many names of one model or device: checkpoints on hubs, files of measurements, drivers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping

from heterarch.errors import InputError, UnknownNameError

#: endings that leave the shape as it is: tuning, precision, packaging, revision; never a size or a version
_ENDING = re.compile(
    r"[-.](instruct|chat|it|base|hf|thinking|preview|terminus|dynamic|block|kv|quantized|gguf|awq|gptq|v0\.\d"
    r"|((nv|mx)?fp4|fp8)(-v\d)?|bf16|fp16|int[48]|w\d+a\d+|q\d(_\w+)?|\d{4}|\d{6}|\d{4}-\d{2}-\d{2})$"
)
_MAKER = re.compile(r"^(meta|nvidia|google|openai)-")

#: what a driver calls a device -> its id in the catalogue; whole names, so that variants are not mistaken
DRIVER_NAMES = (
    (r"(nvidia )?h100 80gb hbm3", "h100-sxm"),
    (r"(nvidia )?h100 sxm5?( 80gb)?", "h100-sxm"),
    (r"(nvidia )?h100 pcie", "h100-pcie"),
    (r"(nvidia )?h100 nvl", "h100-nvl"),
    (r"(nvidia )?h200( sxm)?", "h200-sxm"),
    (r"(nvidia )?gh200 144g hbm3e", "gh200"),
    (r"(nvidia )?b200( sxm)?", "b200"),
    (r"(nvidia )?b300 sxm6( ac)?", "b300"),
    (r"(nvidia )?gb200", "gb200-nvl72"),
    (r"(nvidia )?gb300", "gb300-nvl72"),
    (r"(nvidia )?a100-sxm4?-80gb", "a100-80-sxm"),
    (r"(nvidia )?a100-sxm4?-40gb", "a100-40-sxm"),
    (r"(nvidia )?a100 80gb pcie", "a100-80-pcie"),
    (r"(nvidia )?a100-pcie-40gb", "a100-40-pcie"),
    (r"(nvidia )?(l4|l40s|a10|a40)", r"\2"),
    (r"(nvidia |tesla )?t4", "t4"),
    (r"nvidia geforce rtx (3090|4090|5090)", r"rtx\1"),
    (r"nvidia rtx pro 6000 blackwell server edition", "rtx-pro-6000-se"),
    (r"(amd instinct )?(mi210|mi250x|mi300x|mi325x|mi355x)( oam)?", r"\2"),
)


def find_model_id(name: str, aliases: Mapping[str, tuple[str, ...]]) -> str:
    """The id of the model whose checkpoint is called ``name``; ``aliases``: id -> its other names.

    The whole name is tried first, then without its organisation, then without one ending after another.

    Raises:
        UnknownNameError: no model of that shape; sizes and versions are never guessed.
        InputError: several models have that name.
    """
    for form in (_plain, _core):
        table = _table(aliases, form)
        for tried in _shortened(_plain(name)):
            if tried in table:
                return _only(name, table[tried])
    raise UnknownNameError("model", name, [*aliases, *(other for names in aliases.values() for other in names)])


def find_device_id(name: str, aliases: Mapping[str, tuple[str, ...]]) -> str:
    """The id of the device called ``name`` in a measurement file, by its maker or its driver.

    Raises:
        UnknownNameError: no such device, or a name that several variants share.
        InputError: several devices have that name.
    """
    table = _table(aliases, _device)
    if _device(name) in table:
        return _only(name, table[_device(name)])
    found = driver_device_id(name)
    if found in aliases:
        return found
    raise UnknownNameError("device", name, [*aliases, *(other for names in aliases.values() for other in names)])


def driver_device_id(name: str) -> str:
    """The catalogue id of a device by the name that its driver gives; empty when unknown."""
    for pattern, device_id in DRIVER_NAMES:
        match = re.fullmatch(pattern, name.strip().lower())
        if match:
            return match.expand(device_id)
    return ""


def _table(aliases: Mapping[str, tuple[str, ...]], form: Callable[[str], str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for key, others in aliases.items():
        for text in dict.fromkeys(form(other) for other in (key, *others)):
            found.setdefault(text, []).append(key)
    return found


def _plain(name: str) -> str:
    """Without organisation and case; ``llama2`` and ``qwen3:8b`` as makers write them."""
    text = re.sub(r"[\s_:]+", "-", name.strip().rstrip("/").rsplit("/", 1)[-1].casefold())
    return re.sub(r"^llama(?=\d)", "llama-", _MAKER.sub("", text))


def _core(name: str) -> str:
    return list(_shortened(_plain(name)))[-1]


def _shortened(text: str) -> Iterator[str]:
    """The name, and what is left as its endings are taken away."""
    yield text
    while match := _ENDING.search(text):
        text = text[: match.start()]
        yield text


def _device(name: str) -> str:
    return re.sub(r"^(nvidia|amd|intel|instinct|geforce|tesla)+", "", re.sub(r"[\s_-]+", "", name.casefold()))


def _only(name: str, ids: Iterable[str]) -> str:
    first, *others = dict.fromkeys(ids)
    if others:
        raise InputError(f"{name!r} may be any of several", observed=", ".join((first, *others)), fix="give the id")
    return first
