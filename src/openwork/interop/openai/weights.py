"""A released ``final_model.pt`` as the weights of a `Transformer`.

The release's linear maps and ours are laid out alike; its ``c_attn`` is q, k and v below each other. Shapes are checked
against the config before the model is built, so that no file makes it larger than the file is.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from openwork.errors import UserError
from openwork.interop.openai.checkpoint import open_checkpoint
from openwork.interop.openai.config import Release, read_release
from openwork.interop.openai.tokenizer import TOKENIZER_FILES, load_tokenizer
from openwork.model import ModelConfig, Transformer
from openwork.model.sites import width

WEIGHTS = "final_model.pt"
CONFIG = "beeg_config.json"
LAYER = {
    "ln_1": "attn_norm",
    "ln_2": "mlp_norm",
    "ln_p1": "position_norms.0",
    "ln_p2": "position_norms.1",
    "attn.c_proj": "attn.out",
    "mlp.c_fc": "mlp.up",
    "mlp.c_proj": "mlp.down",
}
"""Modules of a layer: the release's name and ours."""


def load(directory: str | Path) -> Transformer:
    """The released model in `directory` (`beeg_config.json`, `final_model.pt`), in eval mode.

    Its tokenizer comes with it where ``encoder.json`` and ``vocab.bpe`` lie there too.

    Raises:
        UserError: a file is missing or damaged, holds anything but the weights that its config names, or computes
            something that openwork cannot run.
    """
    directory = Path(directory)
    if not (directory / CONFIG).is_file():
        raise UserError(f"{directory} holds no released model (no {CONFIG}); give the directory with {CONFIG}")
    release = read_release(directory / CONFIG)
    path = directory / WEIGHTS
    state = _checked(open_checkpoint(path, "checkpoint"), release, path)
    model = Transformer(release.model)
    model.load_state_dict(_renamed(state, model))
    if all((directory / name).is_file() for name in TOKENIZER_FILES):
        model.tokenizer = load_tokenizer(directory, d_vocab=release.model.d_vocab)
    return model.eval()


def _checked(state: object, release: Release, path: Path) -> dict[str, Tensor]:
    """The weights that the config names, each of its shape, finite and float32; nothing more, nothing less."""
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(f"the checkpoint {path} is no dict of tensors; give the release's {WEIGHTS}")
    given = {name: tensor for name, tensor in state.items() if not _is_causal_mask(name)}
    if release.model.n_layers > len(given):
        raise UserError(
            f"the checkpoint {path} has {len(given)} tensors, its config {release.model.n_layers} layers; "
            "download both again"
        )
    shapes = _shapes(release)
    _check_names(set(given), shapes, release.model, path)
    for name, tensor in given.items():
        expected = shapes[name]
        if name.endswith("sink_logit") and tuple(tensor.shape) == (1,):
            tensor = given[name] = tensor.expand(expected)  # one logit for all heads
        if tuple(tensor.shape) != expected:
            raise UserError(
                f"the checkpoint {path} has {name} of shape {tuple(tensor.shape)}, its config asks for {expected}; "
                "download both again"
            )
        if not tensor.is_floating_point() or not torch.isfinite(tensor.float()).all():
            raise UserError(f"the checkpoint {path} has {name} with values that are no finite numbers; download again")
    tied = release.model.tied and {"lm_head.weight", "transformer.wte.weight"} <= set(given)
    if tied and not torch.equal(given["lm_head.weight"], given["transformer.wte.weight"]):
        raise UserError(
            f"the checkpoint {path} has an unembedding unlike its embedding, its config says tied_unembed; "
            "set that to false"
        )
    return {name: tensor.float() + 0.0 for name, tensor in given.items()}  # -0.0, which masking leaves, becomes 0.0


def _check_names(given: set[str], shapes: dict[str, tuple[int, ...]], config: ModelConfig, path: Path) -> None:
    """Every name that the config asks for, and no other; of tied matrices one is enough, the final bias may lack."""
    optional = {"final_logits_bias"}
    if config.tied:
        optional |= {"lm_head.weight"} if "transformer.wte.weight" in given else {"transformer.wte.weight"}
    missing, extra = sorted(shapes.keys() - given - optional), sorted(given - shapes.keys())
    if missing:
        raise UserError(f"the checkpoint {path} lacks {_some(missing)}, which its config asks for; download both again")
    if extra:
        raise UserError(
            f"the checkpoint {path} has {_some(extra)}, which its config does not name: it would compute something "
            "else; get the config that belongs to it"
        )


def _shapes(release: Release) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of the checkpoint."""
    c, norm_bias, bias = release.model, release.layer_norm_bias, release.linear_bias
    d_in, d_heads = width(c, "attn.act_in"), c.n_heads * c.d_head
    d_position = c.d_position if c.positions == "concatenated" else c.d_model
    shapes: dict[str, tuple[int, ...]] = {
        "transformer.wte.weight": (c.d_vocab, c.d_model),
        "transformer.wpe.weight": (c.n_ctx, d_position),
        "lm_head.weight": (c.d_vocab, c.d_model),
        "final_logits_bias": (c.d_vocab,),
        "transformer.ln_f.weight": (c.d_model,),
    }
    if norm_bias:
        shapes["transformer.ln_f.bias"] = (c.d_model,)
    if c.bigram != "off":
        shapes["bigram_table"] = (c.d_vocab, c.d_vocab)
    norms = {"ln_1": c.d_model, "ln_2": c.d_model}
    if c.positions == "concatenated":
        norms |= {"ln_p1": c.d_position, "ln_p2": c.d_position}
    linears = {
        "attn.c_attn": (3 * d_heads, d_in),
        "attn.c_proj": (c.d_model, d_heads),
        "mlp.c_fc": (c.d_mlp, d_in),
        "mlp.c_proj": (c.d_model, c.d_mlp),
    }
    for layer in (f"transformer.h.{i}" for i in range(c.n_layers)):
        shapes |= {f"{layer}.{name}.weight": (size,) for name, size in norms.items()}
        shapes |= {f"{layer}.{name}.bias": (size,) for name, size in norms.items() if norm_bias}
        shapes |= {f"{layer}.{name}.weight": shape for name, shape in linears.items()}
        shapes |= {f"{layer}.{name}.bias": shape[:1] for name, shape in linears.items() if bias}
        if c.sink:
            shapes[f"{layer}.attn.attn_imp.sink_logit"] = (c.n_heads,)
    return shapes


def _renamed(state: dict[str, Tensor], model: Transformer) -> dict[str, Tensor]:
    """The state dict of `model`; biases that the release lacks are zeros."""
    embed = state.get("transformer.wte.weight", state.get("lm_head.weight"))
    ours = {name: torch.zeros_like(tensor) for name, tensor in model.state_dict().items() if name.endswith("bias")}
    assert embed is not None
    ours |= {
        "embed.weight": embed,
        "unembed.weight": state.get("lm_head.weight", embed),
        "position": state["transformer.wpe.weight"],
    }
    if "final_logits_bias" in state:
        ours["unembed.bias"] = state["final_logits_bias"]
    if "bigram_table" in state:
        ours["bigram"] = state["bigram_table"]
    for name, tensor in state.items():
        kind = name.rpartition(".")[2]
        if name.startswith("transformer.ln_f."):
            ours[f"final_norm.{kind}"] = tensor
        elif name.startswith("transformer.h."):
            layer, _, module = name.removeprefix("transformer.h.").rpartition(".")[0].partition(".")
            ours |= _in_layer(f"blocks.{layer}", module, kind, tensor)
    return ours


def _in_layer(block: str, module: str, kind: str, tensor: Tensor) -> dict[str, Tensor]:
    if kind == "sink_logit":
        return {f"{block}.attn.sink": tensor}
    if module == "attn.c_attn":
        return {f"{block}.attn.{n}.{kind}": part for n, part in zip("qkv", tensor.chunk(3), strict=True)}
    return {f"{block}.{LAYER[module]}.{kind}": tensor}


def _is_causal_mask(name: str) -> bool:
    return name.startswith("transformer.h.") and name.endswith(".attn.bias")


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
