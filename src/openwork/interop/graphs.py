"""A circuit as a graph for other tools: NetworkX, GraphML and CSV.

The circuit's edges are weights. What nodes pass each other through the residual stream is added as edges of kind
``stream``, of weight 1: from every writer of a channel to each later reader of it.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from openwork.artifacts import Circuit
from openwork.files import write_atomically
from openwork.interop.extras import need
from openwork.model import FINAL_SITE, NODE_SITES, parse_node

EXTRA = "graphs"


def to_networkx(circuit: Circuit, d_head: int) -> Any:
    """A ``networkx.MultiDiGraph``: nodes with layer, site, kind and index, edges with weight and kind."""
    networkx = need("networkx", EXTRA)
    graph = networkx.MultiDiGraph(
        task=circuit.task, model_hash=circuit.model_hash, ablation=circuit.ablation, **_numbers(circuit)
    )
    for name in circuit.nodes:
        graph.add_node(name, **_about(name, d_head))
    for source, target, weight in circuit.edges:
        graph.add_edge(source, target, weight=weight, kind="weight")
    for source, target in stream_edges(circuit, d_head):
        graph.add_edge(source, target, weight=1.0, kind="stream")
    return graph


def write_graphml(circuit: Circuit, path: str | Path, d_head: int) -> None:
    """Write the graph as GraphML, for Gephi, yEd and Cytoscape."""
    networkx = need("networkx", EXTRA)
    buffer = io.BytesIO()
    networkx.write_graphml(to_networkx(circuit, d_head), buffer)
    write_atomically(path, buffer.getvalue())


def write_csv(circuit: Circuit, path: str | Path, d_head: int) -> None:
    """Write the edges as CSV, one a line: source, target, weight, kind; a node without edges has a line of its own."""
    rows = [(source, target, repr(weight), "weight") for source, target, weight in circuit.edges]
    rows += [(source, target, "1.0", "stream") for source, target in stream_edges(circuit, d_head)]
    joined = {name for row in rows for name in row[:2]}
    rows += [(name, "", "", "alone") for name in circuit.nodes if name not in joined]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("source", "target", "weight", "kind"))
    writer.writerows(rows)
    write_atomically(path, text.getvalue())


def stream_edges(circuit: Circuit, d_head: int) -> list[tuple[str, str]]:
    """Who writes into a channel of the residual stream that a later node reads: pairs of node names, in order."""
    order = {kind: i for i, kind in enumerate((*NODE_SITES, FINAL_SITE))}
    places = {name: _about(name, d_head) for name in circuit.nodes}
    writers: dict[int, list[str]] = {}
    found = []
    last = float("inf")  # where the final stream is, which has no layer
    for name, place in sorted(places.items(), key=lambda item: (item[1].get("layer", last), order[item[1]["kind"]])):
        if place["kind"].endswith("act_in") or place["kind"] == FINAL_SITE:
            found += [(writer, name) for writer in writers.get(place["index"], ())]
        elif place["kind"].endswith("resid_delta"):
            writers.setdefault(place["index"], []).append(name)
    return found


def _about(name: str, d_head: int) -> dict[str, Any]:
    site, index = parse_node(name, d_head)
    if site == FINAL_SITE:
        return {"site": site, "kind": site, "index": index}
    layer, _, kind = site.partition(".")
    return {"layer": int(layer), "site": site, "kind": kind, "index": index}


def _numbers(circuit: Circuit) -> dict[str, float]:
    return {"target": circuit.target, "loss": circuit.losses["circuit"]}
