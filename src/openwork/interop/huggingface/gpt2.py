"""Dense GPT-2 models of `transformers` as a `Transformer`, behind the same door: they can be pruned and verified."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openwork.corpus.tokenizer import END_OF_TEXT, Tokenizer
from openwork.errors import UserError
from openwork.files import read_json
from openwork.interop.extras import need
from openwork.model import ModelConfig, Transformer

EXTRA = "huggingface"
TIMEOUT = 10
"""Seconds after which a name that nobody answers for is given up."""
ACTIVATIONS = {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu", "relu": "relu"}
MODULES = {
    "ln_1": "attn_norm",
    "ln_2": "mlp_norm",
    "attn.c_proj": "attn.out",
    "mlp.c_fc": "mlp.up",
    "mlp.c_proj": "mlp.down",
}
"""Modules of a layer but q, k and v: theirs and ours."""


def load_gpt2(source: Any) -> Transformer:
    """A GPT-2 model of `transformers` as a `Transformer` with the same logits, in eval mode, dense, without means.

    Args:
        source: a ``GPT2LMHeadModel``, a directory that holds one, or the name of one (which `transformers` downloads).

    Raises:
        UserError: `transformers` is missing, the model cannot be opened, is no GPT-2, or has options that ours lack.
    """
    need("transformers", EXTRA)
    from transformers import GPT2LMHeadModel

    if isinstance(source, GPT2LMHeadModel):
        theirs, tokenizer = source, None
    else:
        with _quiet(str(source)):
            theirs, tokenizer = _open(str(source)), _tokenizer(str(source))
    model = Transformer(_config(theirs.config))
    with torch.no_grad():
        model.load_state_dict(_renamed(theirs.state_dict(), model))
    if tokenizer is not None and tokenizer.d_vocab <= model.config.d_vocab:
        model.tokenizer = tokenizer
    return model.eval()


@contextmanager
def _quiet(source: str) -> Iterator[None]:
    """Without the library's own reports: what goes wrong is told in one line. A download still shows its progress."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    if Path(source).is_dir():
        logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _open(source: str) -> Any:
    """The model, from safetensors alone: what needs a pickle is refused, as are weights that are not all there."""
    from transformers import GPT2LMHeadModel

    _check_kind(source)
    try:
        opened: Any = GPT2LMHeadModel.from_pretrained(source, use_safetensors=True, output_loading_info=True)
        model, found = opened
    except Exception as error:  # the library raises OSError, ValueError, RuntimeError, SafetensorError ...
        raise _cannot_open(source, error) from error
    for fault, names in found.items():
        if names:
            raise UserError(
                f"the GPT-2 model {source} has {fault.replace('_', ' ')}, such as {min(map(str, names))}; get it again"
            )
    for name, tensor in model.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise UserError(f"the GPT-2 model {source} has {name} with values that are no finite numbers; get it again")
    return model


def _check_kind(source: str) -> None:
    """Refuse what is no GPT-2 before it is opened, and a name that nobody answers for before it is tried for long."""
    import huggingface_hub

    config = Path(source) / "config.json"
    try:
        if not Path(source).is_dir():
            config = huggingface_hub.try_to_load_from_cache(source, "config.json")
            if not isinstance(config, str):
                huggingface_hub.model_info(source, timeout=TIMEOUT)
                config = huggingface_hub.hf_hub_download(source, "config.json")
    except Exception as error:  # the library and those it stands on raise many
        raise _cannot_open(source, error) from error
    kind = read_json(config, "model config").get("model_type")
    if kind != "gpt2":
        raise UserError(f"the model {source} is of type {kind!r}; only gpt2 can be opened")


def _cannot_open(source: str, error: Exception) -> UserError:
    reason = " ".join(str(error).split())[:160].rstrip(".")
    if "ignore_mismatched_sizes" in reason:  # of the library's own report, which is not shown
        reason = "its weights have other sizes than its config.json says"
    return UserError(
        f"cannot open the GPT-2 model {source!r} ({reason}); give a directory that holds one in safetensors, "
        "or its name where there is a network"
    )


def _tokenizer(source: str) -> Tokenizer | None:
    """The tokenizer that lies with the model; none if there is none that ours can be made of."""
    from transformers import AutoTokenizer

    try:
        text = AutoTokenizer.from_pretrained(source).backend_tokenizer.to_str()
    except Exception:  # a model without a tokenizer is a model all the same
        return None
    import tokenizers
    from tokenizers import pre_tokenizers

    backend = tokenizers.Tokenizer.from_str(text)
    whole = pre_tokenizers.ByteLevel.alphabet()  # where its files are missing, the library makes one of no tokens
    if backend.token_to_id(END_OF_TEXT) is None or any(backend.token_to_id(byte) is None for byte in whole):
        return None
    return Tokenizer(backend)


def _config(theirs: Any) -> ModelConfig:
    wanted = {
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "add_cross_attention": False,
        "layer_norm_epsilon": 1e-5,
    }
    for name, value in wanted.items():
        if getattr(theirs, name) != value:
            raise UserError(f"this GPT-2 has {name} {getattr(theirs, name)}; only {value} can be opened")
    if theirs.activation_function not in ACTIVATIONS:
        raise UserError(
            f"this GPT-2 has activation_function {theirs.activation_function!r}; known are {', '.join(ACTIVATIONS)}"
        )
    return ModelConfig(
        n_layers=theirs.n_layer,
        d_model=theirs.n_embd,
        d_head=theirs.n_embd // theirs.n_head,
        n_heads=theirs.n_head,
        d_mlp=theirs.n_inner or 0,
        n_ctx=theirs.n_positions,
        d_vocab=theirs.vocab_size,
        activation_fraction=1,
        sink=False,
        positions="learned",
        norm="layer",
        activation=ACTIVATIONS[theirs.activation_function],  # pyright: ignore[reportArgumentType]
        tied=theirs.tie_word_embeddings,
    )


def _renamed(theirs: dict[str, Tensor], model: Transformer) -> dict[str, Tensor]:
    """Their weights under our names; their linear maps are stored (inputs, outputs), ours the other way."""
    ours = {
        "embed.weight": theirs["transformer.wte.weight"],
        "position": theirs["transformer.wpe.weight"],
        "final_norm.weight": theirs["transformer.ln_f.weight"],
        "final_norm.bias": theirs["transformer.ln_f.bias"],
        "unembed.weight": theirs["lm_head.weight"],
        "unembed.bias": torch.zeros(model.config.d_vocab),
    }
    for layer in range(model.config.n_layers):
        their, our = f"transformer.h.{layer}", f"blocks.{layer}"
        for kind in ("weight", "bias"):
            qkv = theirs[f"{their}.attn.c_attn.{kind}"].T if kind == "weight" else theirs[f"{their}.attn.c_attn.{kind}"]
            ours |= {f"{our}.attn.{n}.{kind}": part for n, part in zip("qkv", qkv.chunk(3), strict=True)}
            for theirs_name, ours_name in MODULES.items():
                tensor = theirs[f"{their}.{theirs_name}.{kind}"]
                ours[f"{our}.{ours_name}.{kind}"] = tensor.T if tensor.dim() == 2 else tensor
    return {name: tensor.float() for name, tensor in ours.items()}
