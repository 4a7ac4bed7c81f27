"""The lines of a circuit's program in forward order, and the columns of the table that they read.

A value is a number where nothing that the circuit reads changes it, else the name of an array; numbers are folded into
the biases of what they reach.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor

from openwork.artifacts import Circuit
from openwork.explain.known import Contest, KnownStream, after_contest, kept_largest, n_places
from openwork.explain.numbers import number, total
from openwork.kernels.passes import EPS
from openwork.model import Transformer, matrices, parse_node
from openwork.model.transformer import NONLINEARITIES, Block
from openwork.model.wiring import Matrix

Value = float | str
LETTERS = {
    "attn.act_in": "a",
    "attn.q": "q",
    "attn.k": "k",
    "attn.v": "v",
    "attn.y": "y",
    "attn.resid_delta": "o",
    "mlp.act_in": "r",
    "mlp.post_act": "n",
    "mlp.resid_delta": "w",
}


def short_name(site: str, index: int, d_head: int) -> str:
    """A node's name in a program: ``n0_790`` is neuron 790 of layer 0, ``v1h3_0`` value channel 0 of head 3."""
    layer, _, kind = site.partition(".")
    if kind in ("attn.q", "attn.k", "attn.v", "attn.y"):
        return f"{LETTERS[kind]}{layer}h{index // d_head}_{index % d_head}"
    return f"{LETTERS[kind]}{layer}_{index}"


class Lines:
    """Walks through the circuit once, from the tokens (K,) to the unembedding."""

    def __init__(self, circuit: Circuit, model: Transformer, tokens: Tensor) -> None:
        self.circuit, self.model, self.config = circuit, model, model.config
        self.body: list[str] = []
        self.columns: dict[str, Tensor] = {}
        """What tokens alone decide, (K,) each."""
        self.varying: list[int] = []
        """Channels of the stream that varying nodes have written to."""
        self.unsaid: dict[int, tuple[list[str], float]] = {}
        """Of these, the sums that no line has said yet: what was written since the stream was last read."""
        self.row = {token: i for i, token in enumerate(tokens.tolist())}
        self.tokens = tokens
        self.weights = model.weights_of(circuit.edges, circuit.ablation_values)
        self.into: dict[str, dict[int, list[int]]] = {}
        sources: dict[str, set[int]] = {}
        for edge in circuit.edges:
            (source, column), (target, row) = (parse_node(name, self.config.d_head) for name in edge[:2])
            self.into.setdefault(target, {}).setdefault(row, []).append(column)
            sources.setdefault(source, set()).add(column)
        self.read = {site: sorted(columns) for site, columns in sources.items()}
        self.matrix = {matrix.target: matrix for matrix in matrices(model)}
        self.stream = KnownStream(model, tokens)
        for layer in range(self.config.n_layers):
            self.layer = layer
            self._attention(f"{layer}.attn")
            self._mlp(f"{layer}.mlp")
        self._end()

    def _attention(self, site: str) -> None:
        values = self._reads(site, "the attention reads the stream")
        if not any(self._kept(f"{site}.{part}") for part in ("q", "k", "v", "resid_delta")):
            return self._write(site, {})
        parts = {}
        for part, says in (
            ("q", "queries, what the heads ask for"),
            ("k", "keys, what they find"),
            ("v", "values, what they move"),
        ):
            parts[part] = self._nodes(f"{site}.{part}", values, says)
        moved: dict[int, Value] = {}
        heads = sorted({index // self.config.d_head for index in self.read.get(f"{site}.v", [])})
        if heads:
            self._say("each head moves values from this and earlier tokens, as its pattern p says")
        for head in heads:
            self._pattern(site, head, parts["q"], parts["k"])
            for index in self.read[f"{site}.v"]:
                if index // self.config.d_head == head:
                    name = short_name(f"{site}.y", index, self.config.d_head)
                    moved[index] = self._let(name, _moved(parts["v"][index]))
        self._write(site, self._nodes(f"{site}.resid_delta", moved, "what the attention writes"))

    def _pattern(self, site: str, head: int, q: Mapping[int, Value], k: Mapping[int, Value]) -> None:
        """Scores are sums over the head's channels; those outside the circuit are constants on one side or on both."""
        constants = {part: self.circuit.ablation_values[f"{site}.{part}"].double() for part in "qk"}
        terms, rest = [], 0.0
        for index in range(head * self.config.d_head, (head + 1) * self.config.d_head):
            asked, found = (part.get(index, float(constants[p][index])) for p, part in (("q", q), ("k", k)))
            if isinstance(asked, float) and isinstance(found, float):
                rest += asked * found
            elif 0.0 not in (asked, found):
                asked = number(asked) if isinstance(asked, float) else f"{asked}[:, None]"
                terms.append(f"{asked} * {found if isinstance(found, str) else number(found)}")
        sink = cast(Block, self.model.blocks[int(site.partition(".")[0])]).attn.sink
        least = "-np.inf" if sink is None else number(float(sink.detach()[head]))
        self.body.append(f"p = pattern({total(terms, rest)}, {least}, n)  # head {head}")

    def _mlp(self, site: str) -> None:
        values = self._reads(site, "the MLP reads the stream")
        neurons = self._nodes(f"{site}.post_act", values, "neurons")
        self._write(site, self._nodes(f"{site}.resid_delta", neurons, "what the MLP writes"))

    def _reads(self, site: str, says: str) -> dict[int, Value]:
        """The nodes of ``site.act_in`` that an edge leaves: RMSNorm and AbsTopK of the stream."""
        stream, layer, part = self.stream, *site.split(".")
        wanted = self.read.get(f"{site}.act_in", [])
        if not wanted:
            return {}
        block = cast(Block, self.model.blocks[int(layer)])
        weight = (block.attn_norm if part == "attn" else block.mlp_norm).weight.detach().double()
        entries = stream.x * weight
        places = n_places(self.config, f"{part}.act_in", len(weight))
        names = {channel: short_name(f"{site}.act_in", channel, self.config.d_head) for channel in wanted}
        if not self.varying:
            self._say(f"{says}; the token alone decides {', '.join(names.values())}")
            normed = kept_largest(entries, places) / (stream.squares() / len(weight) + EPS).sqrt()[:, None]
            self.columns |= {names[channel]: normed[:, channel] for channel in wanted}
            return dict(names)
        self._say(f"{says}, after RMSNorm")
        self._sum_up()
        tag = f"{part}{layer}"
        self.columns[f"squares_{tag}"] = stream.squares()
        self.body.append(f"size = {self._rms(f'squares_{tag}')}")
        n = len(self.varying) + (not set(names) <= set(self.varying))  # a known channel that is read may be any of them
        contest = Contest.of(n, entries[:, stream.known], places)
        least = "0"
        if contest is not None:
            rivals = [f"rival{i}_{tag}" for i in range(contest.rivals.shape[-1])]
            self.columns |= dict(zip(rivals, contest.rivals.unbind(-1), strict=True))
            varying = [f"{number(float(weight[channel]))} * x{channel}" for channel in self.varying]
            self.body.append(f"least = kth({contest.places}, [{', '.join(rivals)}], {', '.join(varying)})")
            least = "least"
        for channel, name in names.items():
            if channel in self.varying:
                entry = f"{number(float(weight[channel]))} * x{channel}"
            else:
                entry = f"e{name[1:]}" if part == "attn" else f"f{name[1:]}"
                self.columns[entry] = entries[:, channel]
            self.body.append(f"{name} = {entry if least == '0' else f'over({least}, {entry})'} / size")
        return dict(names)

    def _nodes(self, target: str, sources: Mapping[int, Value], says: str) -> dict[int, Value]:
        """The kept nodes of `target`, in a line each, from the values of the nodes that they read."""
        kept, matrix = self._kept(target), self.matrix[target]
        if not kept:
            return {}
        constant, terms = self._sums(matrix, sources)
        width, kind = len(constant), target.partition(".")[2]
        apply, function = (lambda x: x), ""
        if kind == "mlp.post_act":
            apply, function = NONLINEARITIES[self.config.activation], self.config.activation
        constants = apply(constant)
        varies = [index for index in kept if index in terms]
        names = {index: short_name(target, index, self.config.d_head) for index in kept}
        outside = torch.ones(width, dtype=torch.bool)
        outside[varies] = False
        k = n_places(self.config, kind, width)
        contest = Contest.of(len(varies), constants[outside], k)
        fixed = {index: after_contest(constants, outside, k, index) for index in kept if outside[index]}
        if varies:
            self._say(says)
        alone = contest is not None and len(varies) == 1 and contest.places == 1 and None not in fixed.values()
        for index in varies:
            summed = total(terms[index], float(constant[index]))
            value = f"{function}({summed})" if function else summed
            if contest is not None and alone:
                value = f"over({number(float(contest.rivals[0]))}, {value})"
            self.body.append(f"{names[index]} = {value}")
        if contest is not None and not alone:
            self._select(
                contest, [names[i] for i in varies], {names[i]: constants[i] for i in fixed if fixed[i] is None}
            )
        return {
            index: names[index] if value is None else value for index, value in (dict.fromkeys(varies) | fixed).items()
        }

    def _select(self, contest: Contest, names: list[str], constants: Mapping[str, Tensor]) -> None:
        """AbsTopK of nodes, and of kept constants whose place depends on them."""
        rivals, all_names = ", ".join(map(number, contest.rivals.tolist())), ", ".join(names)
        for name, value in constants.items():
            self.body.append(f"{name} = over(kth({contest.places}, [{rivals}], {all_names}), {number(float(value))})")
        left = f"{all_names}," if len(names) == 1 else all_names
        self.body.append(f"{left} = largest({contest.places}, [{rivals}], {all_names})")

    def _sums(self, matrix: Matrix, sources: Mapping[int, Value]) -> tuple[Tensor, dict[int, list[str]]]:
        """The constant part (width,) of every node's sum, and the varying terms of those that have any."""
        weight = self.weights[f"{matrix.name}.weight"].double()
        constant, terms = self.weights[f"{matrix.name}.bias"].double().clone(), {}
        for row, columns in self.into.get(matrix.target, {}).items():
            for column in sorted(columns):
                source = sources[column]
                if isinstance(source, float):
                    constant[row] += weight[row, column] * source
                else:
                    terms.setdefault(row, []).append(f"{number(float(weight[row, column]))} * {source}")
        return constant, terms

    def _write(self, site: str, written: Mapping[int, Value]) -> None:
        """Add what the nodes write, and the constants of the others, to the stream."""
        others = self.circuit.ablation_values[f"{site}.resid_delta"].double().clone()
        for channel, value in written.items():
            others[channel] = value if isinstance(value, float) else 0.0
        new = [channel for channel, value in written.items() if isinstance(value, str) and channel not in self.varying]
        self.columns |= {f"e{channel}": self.stream.take(channel) for channel in new}
        self.stream.add(others)
        self.varying += new
        for channel in self.varying:
            terms, constant = self.unsaid.get(channel, ([f"{'e' if channel in new else 'x'}{channel}"], 0.0))
            value = written.get(channel)
            written_too = [value] if isinstance(value, str) else []
            self.unsaid[channel] = (terms + written_too, constant + float(others[channel]))
        if self.stream.relu:
            self._sum_up()

    def _sum_up(self) -> None:
        """Say what the channels of the stream hold by now, where it has changed."""
        for channel, (terms, constant) in self.unsaid.items():
            name, summed = f"x{channel}", total(terms, constant)
            if summed != name or self.stream.relu:
                self._let(name, f"relu({summed})" if self.stream.relu else summed)
        self.unsaid.clear()

    def _end(self) -> None:
        """What the unembedding reads of the last token."""
        self.body += ["", "# The answers: the unembedding reads the last token's stream, after RMSNorm."]
        self._sum_up()
        self.columns["squares_end"] = self.stream.squares()
        self.size = self._rms("squares_end", "[-1]")
        self.norm = self.model.final_norm.weight.detach().double()

    def unembed(self, answer: int) -> list[float]:
        """What the logit of `answer` reads of each varying channel."""
        reads = self.model.unembed.weight.detach()[answer].double() * self.norm
        return [float(reads[channel]) for channel in self.varying]

    def at_end(self, last: int, answer: int) -> tuple[float, float]:
        """What the logit of `answer` reads of the channels that the `last` token decides; its bias and bigram entry."""
        reads = self.model.unembed.weight.detach()[answer].double() * self.norm
        bias = 0.0 if self.model.unembed.bias is None else float(self.model.unembed.bias.detach()[answer])
        if self.config.bigram != "off":
            bias += float(self.model.bigram.detach()[last, answer])
        return float(self.stream.x[self.row[last]] @ reads), bias

    def _rms(self, squares: str, where: str = "") -> str:
        channels = "".join(f", x{channel}{where}" for channel in self.varying)
        return f"rms({squares}{where}{channels})"

    def _kept(self, site: str) -> list[int]:
        return self.circuit.kept[site].tolist() if site in self.circuit.kept else []

    def _let(self, name: str, expression: str) -> str:
        self.body.append(f"{name} = {expression}")
        return name

    def _say(self, what: str) -> None:
        self.body += ["", f"# Layer {self.layer}: {what}."]


def _moved(value: Value) -> str:
    return f"p @ {value}" if isinstance(value, str) else f"{number(value)} * p.sum(1)"
