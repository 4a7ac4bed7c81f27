"""A Model directory gives its model back, to the bit and with its hash."""

from __future__ import annotations

import torch

from openwork.model import ModelConfig, Transformer
from openwork.models import load_model, pack, save_model, unpack


def test_a_sparse_model_comes_back_with_its_hash_also_where_a_zero_has_a_sign(tmp_path):
    model = Transformer(ModelConfig(n_layers=1, d_model=8, d_head=4, n_ctx=8, d_vocab=16))
    with torch.no_grad():
        model.blocks[0].attn.q.weight.zero_()[0, :3] = torch.tensor([1.0, -0.0, 2.0])
    save_model(model, tmp_path / "model")
    found = load_model(tmp_path / "model")
    assert found.hash == model.hash
    assert found.state_dict()["blocks.0.attn.q.weight"].signbit()[0].tolist() == [False, True] + 6 * [False]


def test_a_mostly_empty_tensor_is_stored_as_what_it_holds():
    sparse, dense = torch.zeros(4, 5), torch.ones(3)
    sparse[2, 1] = 7
    packed, shapes = pack({"sparse": sparse, "dense": dense})
    assert packed["sparse.indices"].tolist() == [11] and packed["sparse.values"].tolist() == [7]
    assert shapes == {"sparse": [4, 5]}
    assert torch.equal(unpack(packed, shapes)["sparse"], sparse)
