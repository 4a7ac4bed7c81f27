"""The demo for several seeds, each in a process of its own: what the README says of it, as a Markdown table.

    python benchmarks/demo_seeds.py --seeds 3 --out runs/seeds

A seed whose demo ended before is not run again; its time and memory are those of the run that made it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

COLUMNS = {
    "seed": "{seed}",
    "model's loss on the task": "{unpruned_loss:.3f}",
    "circuit's loss": "{circuit_loss:.3f}",
    "nodes": "{nodes}",
    "edges": "{edges}",
    "held-out templates": "{held_out:.3f}",
    "circuit ablated": "{necessity:.3f}",
    "best of 20 random circuits": "{random:.3f}",
    "all checks": "{passed}",
    "minutes": "{minutes:.1f}",
    "GiB": "{gib:.1f}",
}


def run(seed: int, out: Path) -> dict[str, Any]:
    """The numbers of the demo with `seed` in the directory `out`, run if it is not there."""
    measured = out / "measured.json"
    if not measured.is_file():
        began = time.perf_counter()
        command = [sys.executable, "-m", "openwork", "demo", "--no-open", "--seed", str(seed), "--out", str(out)]
        process = os.posix_spawn(sys.executable, command, os.environ)
        _, status, usage = os.wait4(process, 0)
        if status:
            sys.exit(f"the demo with seed {seed} failed, status {os.waitstatus_to_exitcode(status)}")
        gib = usage.ru_maxrss / (1 << 30 if sys.platform == "darwin" else 1 << 20)
        measured.write_text(json.dumps({"minutes": (time.perf_counter() - began) / 60, "gib": gib}))
    summary = json.loads((out / "summary.json").read_text())
    checks = summary["checks"]
    return {
        **{name: summary[name] for name in ("unpruned_loss", "circuit_loss", "nodes", "edges", "passed")},
        **json.loads(measured.read_text()),
        "seed": seed,
        "held_out": checks["held-out templates"]["value"],
        "necessity": checks["necessity"]["value"],
        "random": checks["sufficiency"]["control"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/seeds"))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = [run(seed, arguments.out / str(seed)) for seed in range(arguments.seeds)]
    print("| " + " | ".join(COLUMNS) + " |")
    print("|" + "---|" * len(COLUMNS))
    for row in rows:
        shown = {**row, "passed": "yes" if row["passed"] else "NO"}
        print("| " + " | ".join(text.format(**shown) for text in COLUMNS.values()) + " |")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
