"""Write a model as a directory of `transformers`: config.json, model.safetensors, a fast tokenizer, a model card."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import processors

from openwork.corpus.tokenizer import END_OF_TEXT, Tokenizer
from openwork.errors import UserError
from openwork.interop.card import model_card
from openwork.interop.extras import need
from openwork.model import Transformer

EXTRA = "huggingface"


def export(model: Transformer, directory: str | Path, *, about: dict[str, Any] | None = None) -> Path:
    """Write `model` for `transformers` into `directory`, whole or not at all; `about` is what its card says of it.

    After ``import openwork``, ``AutoModelForCausalLM.from_pretrained(directory)`` and ``pipeline("text-generation",
    directory)`` give the same logits; no remote code is involved.

    Raises:
        UserError: `transformers` is missing, or `directory` exists and is not empty.
    """
    need("transformers", EXTRA)
    from openwork.interop.huggingface.config import OpenworkConfig
    from openwork.interop.huggingface.modeling import OpenworkForCausalLM

    directory = Path(directory)
    check_new(directory)
    end = model.tokenizer.end_of_text if model.tokenizer is not None else None
    wiring = {name: getattr(model.config, name) for name in model.config.__dataclass_fields__}
    config = OpenworkConfig(wiring, bos_token_id=end, eos_token_id=end, pad_token_id=end)
    config.architectures = [OpenworkForCausalLM.__name__]
    theirs = OpenworkForCausalLM(config)
    theirs.model.load_state_dict(model.state_dict())
    directory.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        theirs.generation_config.max_length = model.config.n_ctx  # else a pipeline asks for more than there is
        theirs.save_pretrained(aside)
        if model.tokenizer is not None:
            fast_tokenizer(model.tokenizer, model.config.n_ctx).save_pretrained(aside)
        (aside / "README.md").write_text(model_card(model, about or {}, HOW_TO_USE, directory), encoding="utf-8")
        aside.chmod(0o755)  # mkdtemp lets the owner alone in
        aside.replace(directory)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    return directory


def check_new(directory: Path) -> None:
    """Refuse a `directory` that would lose something."""
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UserError(f"{directory} exists and is not empty; give a new directory")


def fast_tokenizer(tokenizer: Tokenizer, n_ctx: int) -> Any:
    """`tokenizer` for `transformers`: the same ids, and the end-of-text token in front, where every document has it."""
    from transformers import PreTrainedTokenizerFast

    backend = tokenizers.Tokenizer.from_str(tokenizer.json)
    backend.post_processor = processors.TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
        single=f"{END_OF_TEXT} $A",
        pair=f"{END_OF_TEXT} $A $B",
        special_tokens=[(END_OF_TEXT, tokenizer.end_of_text)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        padding_side="left",
        model_max_length=n_ctx,
        clean_up_tokenization_spaces=False,
    )


HOW_TO_USE = """    import openwork  # makes the Auto classes know the model; no remote code
    from transformers import pipeline
    print(pipeline("text-generation", model="{directory}")("def main("))
"""
