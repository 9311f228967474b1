"""The table of a coverage sweep: counts beside the peers', then each architecture not served, with its reason."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

Row = dict[str, Any]
PEERS = {"features_only": "timm `features_only`", "smp": "segmentation-models-pytorch `tu-`"}
LONG = 160
FEW = 4
"""Main inputs of fewer types are counted together."""
PEERS |= {"TimmBackbone": "transformers `TimmBackbone`", "AutoBackbone": "transformers `AutoBackbone`"}


def table(rows: list[Row]) -> str:
    """Write the whole table as Markdown."""
    by_sweep: dict[str, dict[str, Row]] = {}
    for row in rows:
        by_sweep.setdefault(row["sweep"], {})[row["name"]] = row
    parts = []
    for name in ("timm", "torchvision"):
        if f"{name} ours" in by_sweep:
            parts += libraries(name, by_sweep[f"{name} ours"], by_sweep.get(f"{name} peers", {}))
    if "timm values" in by_sweep:
        parts += values(list(by_sweep["timm values"].values()))
    if "hf ours" in by_sweep:
        parts += types(by_sweep["hf ours"], by_sweep.get("hf peers", {}))
    return "\n".join(parts)


def answers(row: Row) -> list[Row]:
    return list(row.get("ours", {}).values())


def served(row: Row) -> bool:
    return bool(answers(row)) and all(answer["ok"] for answer in answers(row))


def share(count: int, total: int) -> str:
    return f"{count:,} of {total:,} ({count / total:.1%})" if total else "none"


def libraries(name: str, swept: dict[str, Row], peers: dict[str, Row]) -> list[str]:
    rows = list(swept.values())
    good = [row for row in rows if served(row)]
    have = [answer for row in good for answer in answers(row)]
    lines = [f"## {name}: {len(rows):,} architectures", "", "| | served |", "|---|---|"]
    lines.append(f"| zoo: spec, module, pooled vector | {share(len(good), len(rows))} |")
    lines.append(f"| zoo: NCHW maps by stage | {share(sum(bool(a['maps']) for a in have), len(rows))} |")
    lines.append(f"| zoo: tokens | {share(sum(a['tokens'] is not None for a in have), len(rows))} |")
    lines.append(f"| zoo: preprocessing as data | {share(sum(a['preprocessing'] for a in have), len(rows))} |")
    for peer in ("features_only", "smp", "TimmBackbone"):
        asked = [row[peer]["ok"] for row in peers.values() if peer in row]
        if asked:
            lines.append(f"| {PEERS[peer]}: NCHW maps | {share(sum(asked), len(asked))} |")
    modalities = Counter(answer["modality"] for answer in have)
    lines += ["", "Modalities: " + ", ".join(f"{what} {count}" for what, count in modalities.most_common()) + ".", ""]
    return lines + failures(rows)


def values(rows: list[Row]) -> list[str]:
    compared = [row for row in rows if row.get("values", {}).get("compared")]
    wrong = [row for row in rows if not row.get("values", {}).get("ok")]
    lines = ["## timm: equal numbers on equal random weights", ""]
    lines += [f"Pooled vector, every map and every buffer bit for bit: {len(compared):,} architectures compared, "]
    lines[-1] += f"{len(wrong):,} of those that were asked failed or differ."
    lines += ["", *[f"- `{row['name']}`: {row.get('values', row).get('reason', row.get('died'))}" for row in wrong], ""]
    return lines


def types(swept: dict[str, Row], peers: dict[str, Row]) -> list[str]:
    rows = list(swept.values())
    lines = [f"## transformers: {len(rows):,} model types with a class for features", ""]
    lines += ["| main input | types | served whole | AutoBackbone |", "|---|---|---|---|"]
    kinds = Counter(row.get("takes", "died") for row in rows)
    for kind, count in kinds.most_common():
        if count < FEW:
            continue
        mine = [row for row in rows if row.get("takes", "died") == kind]
        auto = sum(bool(peers.get(row["name"], {}).get("AutoBackbone", {}).get("ok")) for row in mine)
        lines.append(f"| `{kind}` | {count} | {share(sum(map(served, mine)), count)} | {auto} |")
    rest = [row for row in rows if kinds[row.get("takes", "died")] < FEW]
    lines.append(f"| others | {len(rest)} | {share(sum(map(served, rest)), len(rest))} | 0 |")
    have = [answer for row in rows for answer in answers(row) if answer["ok"]]
    modalities = Counter(answer["modality"] for answer in have)
    lines += ["", "Modalities: " + ", ".join(f"{what} {count}" for what, count in modalities.most_common()) + ".", ""]
    return lines + failures(rows)


def failures(rows: list[Row]) -> list[str]:
    """List what is not served under the reason, each reason once."""
    by_reason: dict[str, list[str]] = {}
    for row in rows:
        if "died" in row:
            by_reason.setdefault(row["died"], []).append(row["name"])
        for name, answer in row.get("ours", {}).items():
            if not answer["ok"]:
                by_reason.setdefault(reason(name, answer["reason"]), []).append(name.partition(":")[2])
    if not by_reason:
        return ["Not served: none.", ""]
    ordered = sorted(by_reason.items(), key=lambda item: (-len(item[1]), item[0]))
    lines = [f"| {why} | {', '.join(f'`{name}`' for name in sorted(names))} |" for why, names in ordered]
    return ["| not served, for it says | |", "|---|---|", *lines, ""]


def reason(name: str, text: str) -> str:
    """Take the class of the error and the name out of a message; types of one family differ in what to name instead."""
    text = re.sub(r"^(?:(?:RuntimeError|[A-Z][a-z]+Error|UnknownName): )*(?=hf:|timm:|torchvision:)", "", text)
    text = re.sub(rf"^{re.escape(name)}\S*?(?: is not served|: '[^']*' cannot be served)?: ", "", text)
    text = re.sub(r", use the float model '[^']*'", ", use the float model", text)
    text = text.strip().rstrip(".").replace("|", "/")
    return text if len(text) <= LONG else text[:LONG].rpartition(" ")[0] + " …"
