"""A circuit as a Python program of plain numpy: a line per node, from token ids to the answers' logits.

Nothing is approximated. What lies outside the circuit is a constant; what tokens alone decide is looked up in a table
of the task's tokens; and where AbsTopK lets a node keep its value only if it is large enough, the program says among
which others. The program is run against the circuit, in float64, before it is handed out.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from textwrap import indent, wrap
from typing import Any

import torch
from torch import Tensor

from openwork.artifacts import Circuit, bind
from openwork.errors import UserError
from openwork.explain.belongs import check_circuit
from openwork.explain.known import refuse_unknowable, tokens_of
from openwork.explain.lines import Lines
from openwork.explain.numbers import number, total
from openwork.explain.seen import LOOKED_AT
from openwork.kernels.passes import EPS
from openwork.model import Transformer
from openwork.tasks import Pairs, Task

TOLERANCE = 1e-4
"""Between calibrated logit differences of program and circuit."""


def write_program(circuit: Circuit, model: Transformer, task: Task) -> tuple[str, dict[str, Any]]:
    """The program's text, and how it agrees with the circuit: prompts, tokens, and the largest difference by split.

    Its tokens are those of the validation and the held-out pairs; for others it raises a `ValueError`.

    Raises:
        UserError: the task is not the circuit's, the model's wiring allows no such program (see `refuse_unknowable`),
            or the program differs.
    """
    check_circuit(circuit, task)
    refuse_unknowable(model.config)
    circuit, model = _in_float64(circuit, model)
    splits = {
        "validation": task.pairs("validation", circuit.n_pairs),
        "held_out": task.pairs("held_out", min(circuit.n_pairs, LOOKED_AT)),
    }
    tokens = tokens_of(splits.values())
    lines = Lines(circuit, model, tokens)
    text = _text(circuit, model, lines, tokens, list(splits.values()))
    differences = {split: disagreement(text, circuit, pairs) for split, pairs in splits.items()}
    if not all(difference <= TOLERANCE for difference in differences.values()):  # also where one is NaN
        raise UserError(
            f"the program would differ from the circuit by {max(differences.values()):.2g} in a logit difference, "
            f"more than {TOLERANCE:g}; report this with the circuit, and leave --program out"
        )
    return text, {
        "pairs": len(splits["validation"]),
        "tokens": len(tokens),
        "lines": text.count("\n"),
        "lines_of_code": text.partition("\n# Tables")[0].count("\n"),
        "differs": differences,
    }


def _in_float64(circuit: Circuit, model: Transformer) -> tuple[Circuit, Transformer]:
    """Both in float64: a calibration that multiplies by 20 would multiply what float32 rounds, too."""
    model = copy.deepcopy(model).double()
    values = {site: value.double() for site, value in circuit.ablation_values.items()}
    return bind(replace(circuit, ablation_values=values), model), model


@torch.no_grad()
def disagreement(text: str, circuit: Circuit, pairs: Pairs) -> float:
    """The largest absolute difference, over `pairs`, between the program's calibrated differences and the circuit's."""
    program: dict[str, Any] = {}
    exec(compile(text, "<program>", "exec"), program)
    differences = torch.cat([part.differences(circuit(part.flat, part.due)) for part in pairs.split(LOOKED_AT)])
    wanted = (circuit.scale * differences + circuit.shift).double().flatten()
    found = [
        program["difference"](row[: last + 1], a, b)
        for members, last, (a, b) in zip(pairs.tokens.tolist(), pairs.last.tolist(), pairs.right.tolist(), strict=True)
        for row in members
    ]
    return float((torch.tensor(found, dtype=torch.float64) - wanted).abs().max())


NAMES = """Names: a0_39 is what the attention of layer 0 reads of channel 39 of the residual stream; q0h2_6, \
k0h2_6 and v0h2_6 are query, key and value channel 6 of its head 2; y0h2_6 is what the head brings of the value; \
o0_19 is what the attention writes to channel 19; r0_66 is what the MLP reads, n0_22 a neuron, w0_118 what the MLP \
writes. x19 is channel 19 of the stream, and e19 what it holds before any node writes to it. All that is not named is \
constant, and is part of the numbers that stand alone."""
HELPERS = {
    "pattern": '''
def pattern(score, sink, n):
    """Attention (query, key) of n tokens, each to itself and those before; the sink takes a part that moves nothing."""
    score = np.broadcast_to(score / {root}, (n, n))
    score = np.where(np.tri(n, dtype=bool), score, -np.inf)
    most = np.maximum(score.max(1, keepdims=True), sink)
    weight = np.exp(score - most)
    return weight / (weight.sum(1, keepdims=True) + np.exp(sink - most))
''',
    "kth": '''
def kth(places, rivals, *values):
    """The magnitude that is needed to be among the `places` largest of values and rivals, at each position."""
    values = np.broadcast_arrays(*values, *rivals)
    return np.sort(np.abs(values), 0)[-places]
''',
    "over": '''
def over(least, x):
    """x where its magnitude is at least `least`, 0 elsewhere (AbsTopK)."""
    return np.where(np.abs(x) >= least, x, 0.0)
''',
    "largest": '''
def largest(places, rivals, *values):
    """The values, each 0 where its magnitude is not among the `places` largest of values and rivals (AbsTopK)."""
    least = kth(places, rivals, *values)
    return [over(least, x) for x in values]
''',
    "rms": '''
def rms(squares, *channels):
    """RMS of the stream: the sum of squares of the channels that the token alone decides, and the other channels."""
    return np.sqrt((squares + sum(x * x for x in channels)) / {d_model} + {eps})
''',
    "relu": """
def relu(x):
    return np.maximum(x, 0.0)
""",
    "gelu": """
def gelu(x):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
""",
    "gelu_tanh": """
def gelu_tanh(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
""",
}
BODY = '''
def logits(tokens, answers):
    """The circuit's logits of the `answers` after `tokens`: token ids, end-of-text first.

    Every name below is an array with one number per token.
    """
    n = len(tokens)
{columns}
{body}
    last = [{channels}]
    size = {size}
    found = []
    for answer in answers:
        if (tokens[-1], answer) not in LAST:
            raise ValueError(f"this program does not know the answer {{answer}} after the token {{tokens[-1]}}")
        direct, bias = LAST[tokens[-1], answer]
        found.append((sum(u * x for u, x in zip(UNEMBED[answer], last)) + direct) / size + bias)
    return found


def difference(tokens, a, b):
    """The calibrated logit difference: above 0 the circuit answers a, below 0 b."""
    of_a, of_b = logits(tokens, (a, b))
    return {calibrated}


def look_up(tokens):
    """The columns of TOKENS, each with one number per token."""
    for token in tokens:
        if token not in TOKENS:
            raise ValueError(f"this program does not know the token {{token}}, only the {{len(TOKENS)}} of its task")
    return np.array([TOKENS[token] for token in tokens], dtype=np.float64).T
'''


def _text(circuit: Circuit, model: Transformer, lines: Lines, tokens: Tensor, splits: list[Pairs]) -> str:
    config = model.config
    body = "\n".join(lines.body)
    eps = repr(EPS)
    used = body + lines.size + ("kth( over(" if "largest(" in body else "")
    written = [name for name in HELPERS if f"{name}(" in used]
    helpers = "\n".join(HELPERS[name] for name in written).format(
        root=f"{number(config.d_head**0.5)}", d_model=config.d_model, eps=eps
    )
    names = "\n".join(wrap(", ".join(lines.columns) + ",", 108))
    unpacked = f"(\n{indent(names, '    ')}\n) = look_up(tokens)"
    main = BODY.format(
        columns=indent(unpacked, "    "),
        body=indent(body, "    "),
        channels=", ".join(f"x{channel}[-1]" for channel in lines.varying),
        size=lines.size,
        calibrated=total([f"{number(circuit.scale)} * (of_a - of_b)"], circuit.shift),
    )
    imports = "import math\n\n" if "math." in helpers else ""
    opening = _opening(circuit)
    return f"{opening}\n{imports}import numpy as np\n\n{helpers}\n{main}\n{_tables(model, lines, tokens, splits)}"


def _opening(circuit: Circuit) -> str:
    """The docstring; of the task's name, which may be any text, what cannot end it."""
    task = "".join(c for c in circuit.task if c.isalnum() or c in " _-.~")
    size = f"{len(circuit.nodes)} nodes, {len(circuit.edges)} edges, loss {circuit.losses['circuit']:.4f} nats. "
    about = "\n".join(wrap(size + NAMES, 118))
    return f'"""The circuit of {task} in the model {circuit.model_hash[:12]}, as a program.\n\n{about}\n"""\n'


def _tables(model: Transformer, lines: Lines, tokens: Tensor, splits: list[Pairs]) -> str:
    texts = model.tokenizer.tokens(tokens.tolist()) if model.tokenizer else [""] * len(tokens)
    rows = torch.stack(list(lines.columns.values()), 1).tolist() if lines.columns else [[]] * len(tokens)
    table = [
        f"    {token}: ({', '.join(map(number, row))}{',' * (len(row) == 1)}),  # {text!r}"
        for token, row, text in zip(tokens.tolist(), rows, texts, strict=True)
    ]
    pairs = {
        (row[last], answer)
        for some in splits
        for members, last, answers in zip(some.tokens.tolist(), some.last.tolist(), some.right.tolist(), strict=True)
        for row in members
        for answer in answers
    }
    ends = [f"    ({t}, {a}): ({', '.join(map(number, lines.at_end(t, a)))})," for t, a in sorted(pairs)]
    reads = [
        f"    {a}: ({''.join(number(x) + ', ' for x in lines.unembed(a))}),  # {_name(model, a)}"
        for a in sorted({a for _, a in pairs})
    ]
    columns = ", ".join(lines.columns)
    return "\n".join(
        [
            "\n# Tables",
            "# What the answers' unembedding reads, after RMSNorm's weight, of "
            + (", ".join(f"x{channel}" for channel in lines.varying) or "nothing"),
            "UNEMBED = {",
            *reads,
            "}",
            *wrap(f"What a token alone decides: {columns}", 118, initial_indent="# ", subsequent_indent="# "),
            "TOKENS = {",
            *table,
            "}",
            "# (last token, answer): what the answer reads of the last token's other channels; bias and bigram table",
            "LAST = {",
            *ends,
            "}",
            "",
        ]
    )


def _name(model: Transformer, token: int) -> str:
    return repr(model.tokenizer.tokens([token])[0]) if model.tokenizer else ""
