"""A tiny model with hand-set weights whose circuit is known exactly.

The task: a marker token A or B stands somewhere before the end; answer a after A and b after B. The planted circuit, in
words: channel 0 of the embedding says which marker it is (+1 or -1; on fillers it is noise), channel 1 that it is one.
Head 0 looks for channel 1 and moves channel 0 to channel 2 of the residual stream, which the unembedding reads as a
against b. Nothing else touches the answer; everything else is decoys: a second head, an MLP, and weights from and to
the circuit's own channels.
"""

from __future__ import annotations

import torch

from openwork.model import ModelConfig, Transformer, mean_activations
from openwork.tasks import Pairs

END, A, B, ANSWER_A, ANSWER_B = 0, 1, 2, 3, 4
FILLERS = range(5, 15)
NODES = {
    "0.attn.act_in.0",
    "0.attn.act_in.1",
    "0.attn.q.head0.ch0",
    "0.attn.k.head0.ch0",
    "0.attn.v.head0.ch0",
    "0.attn.resid_delta.2",
}
EDGES = {
    ("0.attn.act_in.1", "0.attn.k.head0.ch0"),
    ("0.attn.act_in.0", "0.attn.v.head0.ch0"),
    ("0.attn.v.head0.ch0", "0.attn.resid_delta.2"),
}


class PlantedTask:
    """Pairs of prompts that differ in their marker alone."""

    name = "planted"
    hash = "planted"

    def pairs(self, split: str, n: int, seed: int = 0) -> Pairs:
        generator = torch.Generator().manual_seed(seed + 10**6 * ["train", "validation", "held_out"].index(split))
        length = 9
        tokens = (
            torch.randint(FILLERS.start, FILLERS.stop, (n, 1, length), generator=generator).expand(-1, 2, -1).clone()
        )
        tokens[:, :, 0] = END
        place = torch.randint(1, length - 1, (n,), generator=generator)
        for member, marker in enumerate((A, B)):
            tokens[torch.arange(n), member, place] = marker
        right = torch.tensor([[ANSWER_A, ANSWER_B]]).expand(n, 2)
        last = torch.full((n,), length - 1)
        return Pairs(tokens=tokens, last=last, right=right, wrong=right.flip(1), prompts=(("", ""),) * n)


@torch.no_grad()
def planted_model() -> Transformer:
    config = ModelConfig(
        n_layers=1, d_model=12, d_head=4, n_heads=2, d_mlp=8, n_ctx=16, d_vocab=15, activation_fraction=1, sink=False
    )
    model = Transformer(config)
    for parameter in model.parameters():
        if parameter.dim() == 2:
            parameter.zero_()
    draw = torch.Generator().manual_seed(0)
    block = model.blocks[0]
    model.embed.weight[:, 3:] = torch.randn(15, 9, generator=draw) * 0.5  # fillers live in channels 3 to 11
    model.embed.weight[5:, 0] = torch.tensor([2.0, -2.0]).repeat(5)  # noise: a head that does not look cannot tell
    model.embed.weight[A, :2] = torch.tensor([3.0, 3.0])
    model.embed.weight[B, :2] = torch.tensor([-3.0, 3.0])
    block.attn.q.bias[0] = 8.0
    block.attn.k.weight[0, 1] = 1.0
    block.attn.v.weight[0, 0] = 1.0
    block.attn.out.weight[2, 0] = 3.0
    model.unembed.weight[ANSWER_A, 2], model.unembed.weight[ANSWER_B, 2] = 2.0, -2.0
    # decoys: head 1 and the MLP mix filler channels, and read the circuit's channels too, but never write to channel 2
    for target, source in ((4, 0), (5, 5), (6, 1), (7, 7)):
        block.attn.q.weight[target, source] = block.attn.v.weight[target, source] = 1.0
        block.attn.k.weight[target, source + 1] = 1.0
        block.attn.out.weight[source + 3, target] = 0.3
    for neuron in range(8):
        block.mlp.up.weight[neuron, neuron % 12] = 1.0
        block.mlp.down.weight[3 + neuron, neuron] = 0.3
    tokens = torch.cat([PlantedTask().pairs("train", 64, seed).flat for seed in range(4)])
    model.means = mean_activations(model, [tokens])
    return model.eval()
