"""`python -m faults --rounds 20 --seed 1 [KIND ...]` (with tests/ on PYTHONPATH)."""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from faults.kinds import KINDS, NotSurvivedError
from faults.rounds import Round, play, scripts, set_up


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    kinds = arguments.kinds or list(KINDS)
    if unknown := set(kinds) - set(KINDS):
        parser.error(f"no such kind of fault: {', '.join(sorted(unknown))}")
    found: list[Round] = []
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        stage = set_up(Path(folder))
        print(f"undisturbed: {stage.shards} shards in {stage.undisturbed_s:.0f} s", flush=True)
        broken = 0
        for kind, luck in scripts(kinds, arguments.rounds, arguments.seed):
            try:
                played = play(stage, kind, luck)
            except (NotSurvivedError, TimeoutError) as error:
                broken += 1
                print(f"{kind} {luck}: BROKEN: {error}", flush=True)
                continue
            found.append(played)
            print(f"{kind} {luck}: {played.happened}, {played.audit}", flush=True)
    print(_table(found))
    print(f"{broken} rounds in which the job broke a promise")
    return 0 if not broken and all(played.audit.clean for played in found) else 1


def _table(found: list[Round]) -> str:
    lines = [
        "| fault | rounds | hit | lost | doubled | wrong | left over | median s to recover |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for kind in dict.fromkeys(played.kind for played in found):
        ours = [played for played in found if played.kind == kind]
        audits = [played.audit for played in ours]
        numbers = (
            len(ours),
            sum(played.happened.struck for played in ours),
            sum(a.lost for a in audits),
            sum(a.doubled for a in audits),
            sum(a.wrong for a in audits),
            sum(len(a.leftovers) for a in audits),
            f"{statistics.median(played.happened.recover_s for played in ours):.1f}",
        )
        lines.append(f"| {kind} | {' | '.join(map(str, numbers))} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
