"""Names of checkpoints and devices as hubs, measurement files and drivers write them."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from heterarch.catalog import Catalog
from heterarch.errors import InputError, UnknownNameError

MODELS = {
    "nvidia/DeepSeek-R1-NVFP4": "DeepSeek-R1",
    "nvidia/DeepSeek-R1-0528-FP4-v2": "DeepSeek-R1",
    "deepseek-ai/DeepSeek-R1-0528": "DeepSeek-R1",
    "deepseek-ai/DeepSeek-V3-0324": "DeepSeek-V3",
    "nvidia/DeepSeek-V3.1-NVFP4": "DeepSeek-V3",
    "deepseek-ai/DeepSeek-V3.2-Exp": "DeepSeek-V3.2",
    "deepseek-ai/DeepSeek-R1-Distill-Llama-70B": "Meta-Llama-3.1-70B",
    "Qwen/Qwen3-235B-A22B-FP8": "Qwen3-235B-A22B",
    "Qwen/Qwen3-235B-A22B-Thinking-2507": "Qwen3-235B-A22B",
    "Qwen/Qwen3-30B-A3B-Instruct-2507": "Qwen3-30B-A3B",
    "Qwen/Qwen3-8B": "Qwen3-8B",
    "qwen3:8b": "Qwen3-8B",
    "Qwen/Qwen2.5-72B-Instruct-AWQ": "Qwen2.5-72B",
    "Qwen/Qwen3.5-397B-A17B": "Qwen3.5-397B-A17B",
    "meta-llama/Llama-3.1-70B": "Meta-Llama-3.1-70B",
    "Llama-3.3-70B-Instruct": "Meta-Llama-3.1-70B",
    "meta-llama/Llama-3.1-8B-Instruct": "Meta-Llama-3.1-8B",
    "nvidia/Llama-3.1-405B-Instruct-FP4": "Meta-Llama-3.1-405B",
    "amd/Llama-3.1-405B-Instruct-FP8-KV": "Meta-Llama-3.1-405B",
    "RedHatAI/Meta-Llama-3.1-8B-Instruct-quantized.w8a8": "Meta-Llama-3.1-8B",
    "meta-llama/Meta-Llama-3-70B": "Meta-Llama-3-70B",
    "meta-llama/Llama-2-7b-chat-hf": "Llama-2-7B",
    "llama2-70b": "Llama-2-70B",
    "bloom-176b": "BLOOM-176B",
    "codellama/CodeLlama-34b-Instruct-hf": "CodeLlama-34B",
    "internlm/internlm-20b": "InternLM-20B",
    "openai/gpt-oss-120b": "gpt-oss-120b",
    "zhipuai/GLM-5": "GLM-5",
    "zai-org/GLM-5-FP8": "GLM-5",
    "MiniMaxAI/MiniMax-M2.5": "MiniMax-M2.5",
    "MiniMaxAI/MiniMax-M2": "MiniMax-M2.5",
    "moonshotai/Kimi-K2.5": "Kimi-K2.5",
    "nvidia/Kimi-K2.5-NVFP4": "Kimi-K2.5",
    "moonshotai/Kimi-K2-Thinking": "Kimi-K2-Instruct",
    "mistralai/Mixtral-8x7B-Instruct-v0.1": "Mixtral-8x7B-v0.1",
    "google/gemma-3-27b-it": "gemma-3-27B",
    "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-FP8": "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16",
}
DEVICES = {
    "h100_sxm": "h100-sxm",
    "h200_sxm": "h200-sxm",
    "b200_sxm": "b200",
    "b300_sxm": "b300",
    "gb200": "gb200-nvl72",
    "gb300": "gb300-nvl72",
    "l40s": "l40s",
    "L40S": "l40s",
    "rtx_pro_6000_server": "rtx-pro-6000-se",
    "b60": "arc-pro-b60",
    "a100_sxm": "a100-80-sxm",
    "a100-80gb": "a100-80-sxm",
    "h100-80gb": "h100-sxm",
    "RTX4090": "rtx4090",
    "RTXPRO6000": "rtx-pro-6000-se",
    "NVIDIA H100 80GB HBM3": "h100-sxm",
    "NVIDIA GeForce RTX 4090": "rtx4090",
    "AMD Instinct MI300X OAM": "mi300x",
    "NVIDIA L4": "l4",
}


@pytest.mark.parametrize(("name", "model_id"), MODELS.items())
def test_models(catalog: Catalog, name: str, model_id: str) -> None:
    assert catalog.find_model(name).id == model_id


@pytest.mark.parametrize(("name", "device_id"), DEVICES.items())
def test_devices(catalog: Catalog, name: str, device_id: str) -> None:
    assert catalog.find_device(name).id == device_id


def test_every_id_and_alias_names_one_row(catalog: Catalog) -> None:
    for model in catalog.models.values():
        assert {catalog.find_model(name).id for name in (model.id, model.id.upper(), *model.aliases)} == {model.id}
    for device in catalog.devices.values():
        assert {catalog.find_device(name).id for name in (device.id, device.id.upper(), *device.aliases)} == {device.id}


@pytest.mark.parametrize(
    "name",
    ["Qwen3-80B", "Qwen/Qwen3-30B", "Llama-3.1", "meta-llama/Llama-3.1-80B", "DeepSeek-V2", "deepseek", "Mixtral-8x7",
     "gpt-oss", "Kimi-K3", "GLM", "Qwen3-8B-Draft", "DeepSeek-R1-Lite", "", "/"],
)  # fmt: skip
def test_sizes_and_versions_are_never_guessed(catalog: Catalog, name: str) -> None:
    with pytest.raises(UnknownNameError):
        catalog.find_model(name)


def test_the_nearest_names_are_told(catalog: Catalog) -> None:
    with pytest.raises(UnknownNameError) as caught:
        catalog.find_model("Qwen3-80B")
    assert "Qwen3-8B" in caught.value.near
    for shared in ("h100", "a100", "h1000"):
        with pytest.raises(UnknownNameError) as caught:
            catalog.find_device(shared)
        assert any(near.startswith(shared[:4]) for near in caught.value.near)


def test_a_name_that_several_rows_of_a_user_share(tmp_path: Path) -> None:
    head = "id,layers,hidden,heads,kv_heads,head_dim,ffn_dense,vocab,aliases,source\n"
    rows = "mine-FP8,2,64,4,2,16,128,512,ours,x\nmine-BF16,2,64,4,2,16,128,512,,x\n"
    (tmp_path / "m.csv").write_text(head + rows)
    catalog = Catalog.load(tmp_path / "m.csv")
    assert catalog.find_model("acme/mine-fp8").id == "mine-FP8"
    assert catalog.find_model("acme/ours-awq").id == "mine-FP8"
    with pytest.raises(InputError, match="any of several"):
        catalog.find_model("mine-int4")


def test_every_name_in_the_measurements_is_known(catalog: Catalog, shared_data: Path) -> None:
    folder = shared_data / "measured"
    for file, model, device in (
        ("e2e_inferencex.csv", "model", "hardware"),
        ("iteration_splitwise.csv", "model", "hardware"),
        ("vllm_runs_summary.csv", "model", "hardware"),
    ):
        with (folder / file).open() as stream:
            rows = list(csv.DictReader(stream))
        for name in {row[model] for row in rows}:
            catalog.find_model(name)
        for name in {row[device] for row in rows}:
            catalog.find_device(name)
