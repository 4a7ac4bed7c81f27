"""What a run measures of its model."""

import torch

from openwork.model import ModelConfig, Transformer
from openwork.training.metrics import dead_units


def test_dead_is_what_is_zero_everywhere_and_a_qk_channel_if_either_side_is():
    model = Transformer(ModelConfig(n_layers=2, d_model=16, d_head=4, n_ctx=32, d_vocab=20), seed=0)
    with torch.no_grad():
        for name, rows in (("q", [1]), ("k", [1, 5, 9])):
            layer = getattr(model.blocks[0].attn, name)
            layer.weight[rows], layer.bias[rows] = 0, 0
        up = model.blocks[1].mlp.up
        up.weight[[0, 7]], up.bias[[0, 7]] = 0, 0
    batch = torch.randint(0, 20, (8, 33), generator=torch.Generator().manual_seed(0))
    record = ["1.mlp.post_act", "0.attn.q"]
    acts = model.run(batch[:, :-1], record=record)[1]
    assert all((acts[site] == 0).any((0, 1)).all() for site in record)  # AbsTopK: each is zero somewhere
    assert dead_units(model, batch) == {"0.neurons": 0, "0.qk_channels": 3, "1.neurons": 2, "1.qk_channels": 0}
