"""The transformer of the weight-sparse method (paper, A.1): GPT-2 style, pre-norm, with sparse activations.

One batch of tokens goes through `Transformer.run` from top to bottom. At every site it passes through ``at(site, x)``,
the one door at which activations are recorded, ablated, gated or steered. This file knows nothing of sparse weights: it
builds plain linear layers, and `openwork.sparsity` decides which of their entries are zero.

Shapes: B batch, T position, D d_model, V d_vocab.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from functools import partial
from typing import TYPE_CHECKING, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.module import _has_any_global_hook

from openwork.artifacts import Edge, Edit, tensors_hash
from openwork.errors import UserError
from openwork.kernels import abs_topk, gelu, gelu_abs_topk, rms_norm, rms_norm_abs_topk
from openwork.model.attention import attend, attention_pattern
from openwork.model.cache import LayerCache
from openwork.model.sites import NODE_SITES, STREAM_SITES, check_sites, width
from openwork.model.wiring import weights_of

if TYPE_CHECKING:
    from openwork.corpus import Tokenizer

At = Callable[[str, Tensor], Tensor]


def pass_on(site: str, x: Tensor) -> Tensor:
    """The door that nobody watches."""
    return x


@dataclass(frozen=True)
class ModelConfig:
    """The wiring of a `Transformer`. Defaults are the paper's, at a size for a laptop."""

    n_layers: int = 2
    d_model: int = 256
    d_head: int = 16
    n_heads: int = 0
    """Heads per layer; d_model / d_head if 0."""
    d_mlp: int = 0
    """Neurons per MLP; 4 d_model if 0."""
    n_ctx: int = 256
    """Longest context, in tokens."""
    d_vocab: int = 2048
    activation_fraction: float = 0.25
    """AbsTopK keeps this fraction of the channels at `sparse_sites`, rounded down; 1 turns it off."""
    sparse_sites: tuple[str, ...] = NODE_SITES
    sink: bool = True
    """One learned logit per head that joins the softmax's denominator only."""
    bigram: Literal["off", "counted", "learned"] = "off"
    """A dense (V, V) table whose row of the last token is added to the logits: none, a fixed one, or a trained one."""
    positions: Literal["none", "learned", "concatenated"] = "none"
    """Learned positions: none, added to the embedding, or concatenated to what each block reads."""
    d_position: int = 16
    """Channels of concatenated positions; they stand behind the others of `act_in` and share its AbsTopK."""
    norm: Literal["rms", "layer"] = "rms"
    activation: Literal["gelu", "gelu_tanh", "relu"] = "gelu"
    """`gelu_tanh` is GPT-2's approximation of the GELU."""
    residual_activation: Literal["identity", "relu"] = "identity"
    """Applied to the residual stream after each block's two writes."""
    tied: bool = False
    """Whether the unembedding is the embedding."""
    bias: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "d_mlp", self.d_mlp or 4 * self.d_model)
        object.__setattr__(self, "activation_fraction", float(self.activation_fraction))  # 1 hashes as 1.0
        sizes = ("n_layers", "d_model", "d_head", "d_mlp", "n_ctx", "d_vocab", "d_position")
        for name in sizes:
            if getattr(self, name) < 1:
                raise UserError(f"model.{name} is {getattr(self, name)}; it must be at least 1")
        if self.n_heads < 0:
            raise UserError(f"model.n_heads is {self.n_heads}; it must be at least 1, or 0 for d_model / d_head")
        if self.n_heads == 0:
            if self.d_model % self.d_head:
                raise UserError(
                    f"model.d_model {self.d_model} is not divisible by model.d_head {self.d_head}; "
                    "change one of them, or give model.n_heads"
                )
            object.__setattr__(self, "n_heads", self.d_model // self.d_head)
        if not 0 < self.activation_fraction <= 1:
            raise UserError(f"model.activation_fraction is {self.activation_fraction}; it must lie in (0, 1]")
        for site in self.sparse_sites:
            if site not in (*NODE_SITES, *STREAM_SITES):
                known = ", ".join((*NODE_SITES, *STREAM_SITES))
                raise UserError(f"model.sparse_sites has {site!r}; choose among {known}")


class Norm(nn.Module):
    """RMSNorm or LayerNorm over the last axis."""

    def __init__(self, width: int, kind: Literal["rms", "layer"], bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if kind == "layer" and bias else None
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "rms":
            return rms_norm(x, self.weight)
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, eps=1e-5)

    def abs_topk(self, x: Tensor, k: int, gelu: bool) -> Tensor:
        """See `Sparse`."""
        return rms_norm_abs_topk(x, self.weight, k) if self.kind == "rms" else abs_topk(self(x), k)


class Attention(nn.Module):
    """Causal self-attention with an optional sink (paper, A.1)."""

    def __init__(self, config: ModelConfig, d_in: int) -> None:
        super().__init__()
        self.d_head, self.sparse = config.d_head, Sparse(config)
        width = config.n_heads * config.d_head
        self.q = nn.Linear(d_in, width, bias=config.bias)
        self.k = nn.Linear(d_in, width, bias=config.bias)
        self.v = nn.Linear(d_in, width, bias=config.bias)
        self.out = nn.Linear(width, config.d_model, bias=config.bias)
        self.sink = nn.Parameter(torch.zeros(config.n_heads)) if config.sink else None

    def forward(self, x: Tensor, at: At, cache: LayerCache | None = None) -> Tensor:
        sites, layers = ("attn.q", "attn.k", "attn.v"), (self.q, self.k, self.v)
        q, k, v = map(at, sites, self.sparse.after_each(sites, layers, x))
        if cache is not None:
            k, v = cache.extend(k, v)
        selected = self.sparse.sites.issuperset(sites[1:]) and at is pass_on and not any(map(looked_at, layers))
        y = at("attn.y", attend(q, k, v, self.d_head, self.sink, self.sparse.kept(v.shape[-1]) if selected else 0))
        return at("attn.resid_delta", self.sparse.after("attn.resid_delta", self.out, y))


NONLINEARITIES = {"gelu": gelu, "gelu_tanh": partial(F.gelu, approximate="tanh"), "relu": F.relu}


class MLP(nn.Module):
    """Two linear maps around a nonlinearity; its neurons are the nodes ``mlp.post_act``."""

    def __init__(self, config: ModelConfig, d_in: int) -> None:
        super().__init__()
        self.sparse, self.nonlinearity = Sparse(config), NONLINEARITIES[config.activation]
        self.up = nn.Linear(d_in, config.d_mlp, bias=config.bias)
        self.down = nn.Linear(config.d_mlp, config.d_model, bias=config.bias)

    def forward(self, x: Tensor, at: At) -> Tensor:
        neurons = at("mlp.post_act", self.sparse.after("mlp.post_act", self.up, x, self.nonlinearity))
        return at("mlp.resid_delta", self.sparse.after("mlp.resid_delta", self.down, neurons))


class Sparse:
    """AbsTopK at the sites that the config names: keeps the largest magnitudes of each position (paper, A.1)."""

    def __init__(self, config: ModelConfig) -> None:
        self.fraction = config.activation_fraction
        self.sites = frozenset(config.sparse_sites) if config.activation_fraction < 1 else frozenset()

    def __call__(self, site: str, x: Tensor) -> Tensor:
        """x, with the largest kept where `site` is sparse."""
        return abs_topk(x, self.kept(x.shape[-1])) if site in self.sites else x

    def after(
        self, site: str, layer: nn.Module, x: Tensor, nonlinearity: Callable[[Tensor], Tensor] | None = None
    ) -> Tensor:
        """What `layer`, and then the nonlinearity if there is one, make of x, with the largest kept where `site` is
        sparse. A layer with a method ``abs_topk(x, k, gelu)`` does all of it in one pass over memory, unless somebody
        looks at it."""
        in_one_pass = getattr(layer, "abs_topk", None)
        if in_one_pass and site in self.sites and nonlinearity in (None, gelu) and not looked_at(layer):
            k = self.kept(layer.out_features if isinstance(layer, nn.Linear) else x.shape[-1])
            return in_one_pass(x, k, gelu=nonlinearity is gelu)
        y = layer(x)
        if nonlinearity is gelu and site in self.sites:
            return gelu_abs_topk(y, self.kept(y.shape[-1]))
        return self(site, y if nonlinearity is None else nonlinearity(y))

    def after_each(self, sites: Sequence[str], layers: Sequence[nn.Linear], x: Tensor) -> Sequence[Tensor]:
        """`after` for each of the layers, which all read x: in one pass over it where they share a function
        ``together(layers, x, ks)``, in which k = 0 stands for no selection."""
        in_one_pass, *others = {getattr(type(layer), "together", None) for layer in layers}
        if in_one_pass and not others and not any(map(looked_at, layers)):
            ks = [self.kept(y.out_features) if site in self.sites else 0 for site, y in zip(sites, layers, strict=True)]
            return in_one_pass(layers, x, ks)
        return [self.after(site, layer, x) for site, layer in zip(sites, layers, strict=True)]

    def kept(self, width: int) -> int:
        """How many of the channels are kept at a sparse site of that width."""
        return max(1, int(width * self.fraction))


def looked_at(module: nn.Module) -> bool:
    """Whether a call of the module would be noticed: it has hooks, or a tool has put a ``forward`` into it."""
    hooks = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    return bool(hooks or "forward" in module.__dict__ or _has_any_global_hook())


class Block(nn.Module):
    """One layer: attention and MLP, each reading the normalised residual stream and writing back into it."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        d_in = width(config, "attn.act_in")
        self.sparse, self.relu = Sparse(config), config.residual_activation == "relu"
        self.attn_norm = Norm(config.d_model, config.norm, config.bias)
        self.attn = Attention(config, d_in)
        self.mlp_norm = Norm(config.d_model, config.norm, config.bias)
        self.mlp = MLP(config, d_in)
        self.position_norms = (
            nn.ModuleList(Norm(config.d_position, config.norm, config.bias) for _ in range(2))
            if config.positions == "concatenated"
            else None
        )

    def forward(self, x: Tensor, at: At, position: Tensor | None, cache: LayerCache | None = None) -> Tensor:
        x = at("resid_in", x)
        read = at("attn.act_in", self._read("attn.act_in", self.attn_norm, x, position))
        x = self._write(x, self.attn(read, at, cache))
        x = at("resid_mid", self.sparse("resid_mid", x))
        read = at("mlp.act_in", self._read("mlp.act_in", self.mlp_norm, x, position))
        x = self._write(x, self.mlp(read, at))
        return self.sparse("resid_out", x)

    def _write(self, x: Tensor, delta: Tensor) -> Tensor:
        return F.relu(x + delta) if self.relu else x + delta

    def _read(self, site: str, norm: Norm, x: Tensor, position: Tensor | None) -> Tensor:
        if self.position_norms is None or position is None:
            return self.sparse.after(site, norm, x)
        of_position = self.position_norms[site == "mlp.act_in"](position)
        return self.sparse(site, torch.cat([norm(x), of_position.expand(*x.shape[:-1], -1)], dim=-1))


class Transformer(nn.Module):
    """A decoder-only transformer; ``model(tokens)`` are its logits, ``model.run`` the door to its activations."""

    def __init__(self, config: ModelConfig, *, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.tokenizer: Tokenizer | None = None
        self.means: dict[str, Tensor] = {}
        """Mean activation (width,) of each node site over the training corpus, once computed."""
        self.embed = nn.Embedding(config.d_vocab, config.d_model)
        if config.positions != "none":
            width = config.d_model if config.positions == "learned" else config.d_position
            self.position = nn.Parameter(torch.empty(config.n_ctx, width))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.final_norm = Norm(config.d_model, config.norm, config.bias)
        self.unembed = nn.Linear(config.d_model, config.d_vocab, bias=config.bias)
        if config.tied:
            self.unembed.weight = self.embed.weight
        if config.bigram != "off":
            table = torch.zeros(config.d_vocab, config.d_vocab)
            self.bigram = nn.Parameter(table, requires_grad=config.bigram == "learned")
        self.float()  # whatever PyTorch's default type is
        self._initialise(seed)

    @torch.no_grad()
    def _initialise(self, seed: int) -> None:
        """Linear weights normal with variance 1 / inputs, the writes into the residual stream smaller by
        sqrt(2 n_layers); embeddings normal, 0.1; biases, sinks and bigram table zero; norms one."""
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            if name in ("embed.weight", "position"):
                parameter.normal_(0, 0.1, generator=generator)
            elif parameter.dim() == 2 and name != "bigram":
                writes = name.endswith(("out.weight", "down.weight"))
                scale = (2 * self.config.n_layers) ** -0.5 if writes else 1.0
                parameter.normal_(0, scale * parameter.shape[1] ** -0.5, generator=generator)
            elif name.endswith("bias"):
                parameter.zero_()

    def forward(
        self, tokens: Tensor, at: At = pass_on, positions: Tensor | None = None, due: Tensor | None = None
    ) -> Tensor:
        """Logits (B, T, V), float32, of tokens (B, T), int64; `at` sees the activations of every site on their way.

        `positions` and `due` as in `run`.
        """
        return self._logits(tokens, at, positions=positions, due=due)

    def run(
        self,
        tokens: Tensor,
        record: Sequence[str] = (),
        edit: Mapping[str, Edit] | None = None,
        weights: Mapping[str, Tensor] | None = None,
        positions: Tensor | None = None,
        due: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits and recorded activations of one forward pass.

        Args:
            tokens: (B, T) int64.
            record: sites to return; what is recorded is what flows on, edits included.
            edit: for a site, a function of its activations (B, T, width) that gives what takes their place.
            weights: tensors that take the place of parameters, by name, in this run.
            positions: (T,) or (B, T) int64, where the tokens stand if not from 0 on; the edits then see to attention.
            due: (B,) int64, for each text the one token whose logits are wanted; those of all others are not made.

        Returns:
            logits (B, T, V), or (B, V) where `due`, and, for each recorded site, its activations (B, T, width).

        Raises:
            UserError: a site or parameter that the model does not have, more tokens than the context holds, or not one
                `due` for each text.
        """
        edits = edit or {}
        check_sites([*record, *edits], self.config)
        self._check_parameters(weights or {})
        wanted, recorded = frozenset(record), {}

        def at(site: str, x: Tensor) -> Tensor:
            if site in edits:
                x = edits[site](x)
            if site in wanted:
                recorded[site] = x
            return x

        return functional_call(self, dict(weights or {}), (tokens, at, positions, due)), recorded

    def _check_parameters(self, names: Collection[str]) -> None:
        """Raise a `UserError` for the first of `names` that names no parameter, nor a bias that a layer is without."""
        modules = dict(self.named_modules()) if names else {}
        for name in names:
            module, _, leaf = name.rpartition(".")
            if module not in modules or leaf not in modules[module]._parameters:
                near = get_close_matches(name, [known for known, _ in self.named_parameters()], n=1)
                raise UserError(
                    f"the model has no parameter {name!r}" + (f"; did you mean {near[0]!r}?" if near else "")
                )

    def weights_of(self, edges: Iterable[Edge], values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The parameters with which `run` runs `edges` alone (see `openwork.model.wiring`)."""
        return weights_of(self, edges, values)

    def new_cache(self) -> list[LayerCache]:
        """An empty key/value cache, for `extend`."""
        return [LayerCache(self.config.n_ctx) for _ in self.blocks]

    def extend(self, tokens: Tensor, cache: list[LayerCache]) -> Tensor:
        """Logits (B, T, V) of tokens (B, T) that follow those in `cache`, which takes them in."""
        return self._logits(tokens, pass_on, cache)

    def _logits(
        self,
        tokens: Tensor,
        at: At,
        cache: Sequence[LayerCache | None] = (),
        positions: Tensor | None = None,
        due: Tensor | None = None,
    ) -> Tensor:
        cache = cache or [None] * len(self.blocks)
        start = cache[0].length if cache[0] is not None else 0
        end = start + tokens.shape[-1] if positions is None else int(positions.max()) + 1
        if end > self.config.n_ctx:
            raise UserError(f"{end} tokens are more than the model's context of {self.config.n_ctx}; give fewer")
        x, position = self.embed(tokens), None
        if self.config.positions != "none":
            position = self.position[start:end] if positions is None else self.position[positions]
        if self.config.positions == "learned":
            x = x + position
        for layer, block in enumerate(self.blocks):
            door = at if at is pass_on else lambda site, value, layer=layer: at(f"{layer}.{site}", value)
            x = block(x, door, position, cache[layer])
        x = at("final_resid", x)
        if due is not None:
            if due.shape != tokens.shape[:1]:
                raise UserError(f"due names {due.numel()} positions for {len(tokens)} texts; give one for each")
            each = torch.arange(len(x), device=due.device)
            x, tokens = x[each, due], tokens[each, due]
        logits = self.unembed(self.final_norm(x))
        return logits + F.embedding(tokens, self.bigram) if self.config.bigram != "off" else logits

    def attention_pattern(self, layer: int, q: Tensor, k: Tensor) -> Tensor:
        """Attention (B, head, query, key) of `layer` for q and k (B, T, width); a sink takes what rows lack to 1."""
        attention = cast(Attention, self.blocks[layer].attn)
        return attention_pattern(q, k, self.config.d_head, attention.sink)

    @torch.no_grad()
    def generate(self, prompt: str, n_tokens: int = 64, *, temperature: float = 0.0, seed: int = 0) -> str:
        """`prompt` and `n_tokens` more (fewer if the text ends), as text; the likeliest ones at temperature 0."""
        if self.tokenizer is None:
            raise UserError("this model has no tokenizer; load it with openwork.load_model")
        device = self.embed.weight.device
        generator = torch.Generator(device).manual_seed(seed)
        start = [self.tokenizer.end_of_text, *self.tokenizer.encode(prompt)]
        tokens, cache, new = torch.tensor(start, device=device), self.new_cache(), torch.tensor(start, device=device)
        for _ in range(n_tokens):
            if len(tokens) <= self.config.n_ctx:
                logits = self.extend(new[None], cache)[0, -1]
            else:  # the window moves, and with it what every position has seen
                logits = self(tokens[None, -self.config.n_ctx :])[0, -1]
            likely = torch.softmax(logits / temperature, -1) if temperature > 0 else None
            new = logits.argmax()[None] if likely is None else torch.multinomial(likely, 1, generator=generator)
            if int(new) == self.tokenizer.end_of_text:
                break
            tokens = torch.cat([tokens, new])
        return prompt + self.tokenizer.decode(tokens[len(start) :].tolist())

    @property
    def hash(self) -> str:
        """SHA-256 over the config, the weights and the tokenizer: the identity of the model."""
        about = json.dumps(asdict(self.config), sort_keys=True) + (self.tokenizer.hash if self.tokenizer else "")
        return tensors_hash({**self.state_dict(), about: torch.zeros(0, dtype=torch.float32, device="cpu")})
