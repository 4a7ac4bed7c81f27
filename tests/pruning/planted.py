"""Tiny models with hand-set weights whose circuits are known exactly.

The task: a marker token A or B stands somewhere before the end (for the MLP: at the end); answer a after A and b after
B. Channel 0 of the embedding says which marker it is (+3 or -3; on fillers it is noise), channel 1 that it is one.

- head: head 0 looks for channel 1 and moves channel 0 to channel 2, which the unembedding reads as a against b. Its
  query is its bias alone: a node that no edge reaches.
- mlp: a neuron copies what channel 0 has above zero to channel 2.
- two_hops: the head of layer 0 moves channel 0 to channel 2, a neuron of layer 1 copies that to channel 11, and the
  unembedding reads channel 11.

Decoys are other heads and neurons, weights from and to the circuit's own channels, and weak weights between its own
nodes. Copies are the whole mechanism again, in other heads and neurons: each alone is enough.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from openwork.model import ModelConfig, Transformer, mean_activations
from openwork.tasks import Pairs

END, A, B, ANSWER_A, ANSWER_B = 0, 1, 2, 3, 4
FILLERS = range(5, 15)
Kind = Literal["head", "mlp", "two_hops"]
NODES = {
    "0.attn.act_in.0",
    "0.attn.act_in.1",
    "0.attn.q.head0.ch0",
    "0.attn.k.head0.ch0",
    "0.attn.v.head0.ch0",
    "0.attn.resid_delta.2",
}
"""Of the head."""


def planted_edges(kind: Kind, copy: int = 0) -> set[tuple[str, str]]:
    """The edges of one copy of the mechanism."""
    channel = f"head{copy}.ch0"
    head = {
        ("0.attn.act_in.1", f"0.attn.k.{channel}"),
        ("0.attn.act_in.0", f"0.attn.v.{channel}"),
        (f"0.attn.v.{channel}", "0.attn.resid_delta.2"),
    }
    if kind == "head":
        return head
    if kind == "mlp":
        return {
            ("0.mlp.act_in.0", f"0.mlp.post_act.{copy}"),
            (f"0.mlp.post_act.{copy}", "0.mlp.resid_delta.2"),
        }
    return head | {
        ("1.mlp.act_in.2", f"1.mlp.post_act.{copy}"),
        (f"1.mlp.post_act.{copy}", "1.mlp.resid_delta.11"),
    }


EDGES = planted_edges("head")


class PlantedTask:
    """Pairs of prompts that differ in their marker alone; for the MLP it stands at the end."""

    name = "planted"
    hash = "planted"

    def __init__(self, kind: Kind = "head") -> None:
        self.at_end = kind == "mlp"

    def pairs(self, split: str, n: int, seed: int = 0) -> Pairs:
        generator = torch.Generator().manual_seed(seed + 10**6 * ["train", "validation", "held_out"].index(split))
        length = 9
        tokens = (
            torch.randint(FILLERS.start, FILLERS.stop, (n, 1, length), generator=generator).expand(-1, 2, -1).clone()
        )
        tokens[:, :, 0] = END
        place = torch.randint(1, length - 1, (n,), generator=generator)
        if self.at_end:
            place[:] = length - 1
        for member, marker in enumerate((A, B)):
            tokens[torch.arange(n), member, place] = marker
        right = torch.tensor([[ANSWER_A, ANSWER_B]]).expand(n, 2)
        last = torch.full((n,), length - 1)
        prompts = tuple((str(one), str(other)) for one, other in tokens.tolist())
        return Pairs(tokens=tokens, last=last, right=right, wrong=right.flip(1), prompts=prompts)


@torch.no_grad()
def planted_model(kind: Kind = "head", *, decoys: bool = True, copies: int = 1) -> Transformer:
    """The model with `copies` (1 or 2) of the mechanism."""
    layers = 2 if kind == "two_hops" else 1
    config = ModelConfig(
        n_layers=layers,
        d_model=12,
        d_head=4,
        n_heads=3,
        d_mlp=8,
        n_ctx=16,
        d_vocab=15,
        activation_fraction=1,
        sink=False,
    )
    model = Transformer(config)
    for parameter in model.parameters():
        if parameter.dim() == 2:
            parameter.zero_()
    draw = torch.Generator().manual_seed(0)
    model.embed.weight[:, 3:11] = torch.randn(15, 8, generator=draw) * 0.5  # fillers live in channels 3 to 10
    model.embed.weight[5:, 0] = torch.tensor([2.0, -2.0]).repeat(5)  # noise: a head that does not look cannot tell
    model.embed.weight[A, :2] = torch.tensor([3.0, 3.0])
    model.embed.weight[B, :2] = torch.tensor([-3.0, 3.0])
    answer = 11 if kind == "two_hops" else 2
    model.unembed.weight[ANSWER_A, answer], model.unembed.weight[ANSWER_B, answer] = 2.0, -2.0
    for copy in range(copies):
        if kind != "mlp":
            _plant_head(model.blocks[0], copy)
        if kind != "head":
            _plant_neuron(model.blocks[-1], copy, *((2, 11) if kind == "two_hops" else (0, 2)))
    if decoys:
        for block in model.blocks:
            _plant_decoys(block)
    tokens = torch.cat([PlantedTask(kind).pairs("train", 64, seed).flat for seed in range(4)])
    model.means = mean_activations(model, [tokens])
    return model.eval()


def _plant_head(block: nn.Module, head: int) -> None:
    channel = 4 * head
    block.attn.q.bias[channel] = 8.0
    block.attn.k.weight[channel, 1] = 1.0
    block.attn.v.weight[channel, 0] = 1.0
    block.attn.out.weight[2, channel] = 3.0


def _plant_neuron(block: nn.Module, neuron: int, source: int, target: int) -> None:
    block.mlp.up.weight[neuron, source] = 2.0
    block.mlp.down.weight[target, neuron] = 3.0


def _plant_decoys(block: nn.Module) -> None:
    """Head 2 and neurons 2 to 7 mix filler channels and read the circuit's, weakly or not at all writing to them; and
    what the circuit reads also leaks, weakly, into its own nodes."""
    for target, source in ((8, 0), (9, 5), (10, 1), (11, 7)):
        block.attn.q.weight[target, source] = block.attn.v.weight[target, source] = 1.0
        block.attn.k.weight[target, source + 1] = 1.0
        block.attn.out.weight[source + 2, target] = 0.3
    for neuron in range(2, 8):
        block.mlp.up.weight[neuron, neuron] = 1.0
        block.mlp.down.weight[3 + neuron % 6, neuron] = 0.3
    block.attn.k.weight[0, 0] = block.attn.v.weight[0, 1] = 0.03
    block.attn.out.weight[2, 8] = 0.03
    block.mlp.up.weight[0, 5] = block.mlp.down.weight[2, 3] = 0.03
