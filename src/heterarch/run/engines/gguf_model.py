"""A random llama model small enough to write in a test: 0.6 MB, real weights, real attention, real KV.

One character of ASCII text is one token (byte-fallback vocabulary without merges, and only printable ASCII is ever
answered), so an answer fed back as text gives the same token ids and its KV is found again.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heterarch.errors import InputError

_FIRST_BYTE = 3  # after <unk>, <s>, </s>
_SPACE = _FIRST_BYTE + 256
_MEAN = 1  # pooling type of the GGUF format
_NORMAL, _UNKNOWN, _CONTROL, _BYTE = 1, 2, 3, 6  # token types of the GGUF format
_TEMPLATE = (
    "{% for message in messages %}[{{ message.role }}] {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)


@dataclass(frozen=True, slots=True)
class TinyModel:
    """Shape of a random llama: hidden and feed-forward width, layers, heads, vocabulary, context in tokens.

    ``std`` is the standard deviation of the weights; below about 0.15 greedy answers repeat themselves.
    """

    hidden: int = 64
    feed_forward: int = 128
    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    vocab: int = 512
    context: int = 16384
    std: float = 0.25

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of F16 keys and values per token: 2 x layers x kv heads x head size x 2."""
        return 2 * self.layers * self.kv_width * 2

    @property
    def kv_width(self) -> int:
        """Width of the keys of one token in one layer."""
        return self.kv_heads * (self.hidden // self.heads)


TINY = TinyModel()


def write_gguf(path: Path, model: TinyModel = TINY, seed: int = 0) -> Path:
    """Write the model as GGUF (F32) to ``path``; the same shape and seed give the same bytes.

    Raises:
        InputError: the package ``gguf`` is not installed.
    """
    try:
        from gguf import GGUFWriter
    except ImportError:
        raise InputError("writing a GGUF model needs the package gguf", fix="pip install heterarch[local]") from None
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    writer = GGUFWriter(temporary, "llama")
    _add_shape(writer, model)
    _add_vocabulary(writer, model)
    for name, tensor in _tensors(model, np.random.default_rng(seed)).items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    os.replace(temporary, path)
    return path


def _add_shape(writer: Any, model: TinyModel) -> None:
    writer.add_name("heterarch tiny random llama")
    writer.add_context_length(model.context)
    writer.add_embedding_length(model.hidden)
    writer.add_block_count(model.layers)
    writer.add_feed_forward_length(model.feed_forward)
    writer.add_head_count(model.heads)
    writer.add_head_count_kv(model.kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(model.hidden // model.heads)
    writer.add_vocab_size(model.vocab)
    writer.add_file_type(0)  # all F32
    writer.add_uint32("llama.pooling_type", _MEAN)


def _add_vocabulary(writer: Any, model: TinyModel) -> None:
    rest = model.vocab - _SPACE - 1
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581"]
    tokens += [chr(0x100 + number) for number in range(rest)]
    writer.add_tokenizer_model("llama")
    writer.add_token_list([token.encode() for token in tokens])
    writer.add_token_scores([0.0] * model.vocab)
    writer.add_token_types([_UNKNOWN, _CONTROL, _CONTROL, *[_BYTE] * 256, *[_NORMAL] * (rest + 1)])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(_TEMPLATE)


def _tensors(model: TinyModel, rng: np.random.Generator) -> dict[str, NDArray[np.float32]]:
    def normal(*shape: int) -> NDArray[np.float32]:
        return (rng.standard_normal(shape) * model.std).astype(np.float32)

    ones = np.ones(model.hidden, np.float32)
    tensors = {"token_embd.weight": normal(model.vocab, model.hidden)}
    for layer in range(model.layers):
        block = {
            "attn_norm": ones,
            "attn_q": normal(model.hidden, model.hidden),
            "attn_k": normal(model.kv_width, model.hidden),
            "attn_v": normal(model.kv_width, model.hidden),
            "attn_output": normal(model.hidden, model.hidden),
            "ffn_norm": ones,
            "ffn_gate": normal(model.feed_forward, model.hidden),
            "ffn_up": normal(model.feed_forward, model.hidden),
            "ffn_down": normal(model.hidden, model.feed_forward),
        }
        tensors |= {f"blk.{layer}.{name}.weight": tensor for name, tensor in block.items()}
    output = normal(model.vocab, model.hidden)
    output[~_printable(model.vocab)] = 0.0  # a logit of 0 is never the largest of about a hundred
    return tensors | {"output_norm.weight": ones, "output.weight": output}


def _printable(vocab: int) -> NDArray[np.bool_]:
    """[vocab] the tokens that may be answered: printable ASCII and the blank."""
    mask = np.zeros(vocab, np.bool_)
    mask[_FIRST_BYTE + ord("!") : _FIRST_BYTE + ord("~") + 1] = True
    mask[_SPACE] = True
    return mask
