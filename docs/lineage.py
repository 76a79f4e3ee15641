"""Draw docs/lineage.svg from the definitions themselves: `python docs/lineage.py`."""

from __future__ import annotations

from pathlib import Path

from orchestration.definitions import defs

COLOURS = {
    "data": "#0e7490",
    "embeddings": "#7c5cbf",
    "index": "#4d7c0f",
    "model": "#c2410c",
    "evaluation": "#b4893a",
    "promotion": "#9d3c72",
    "monitoring": "#475569",
}
LANES = {
    "landed_items": 1.0,
    "items": 1.0,
    "text_embeddings": 0.0,
    "image_embeddings": 1.0,
    "behaviors": 2.0,
    "drift": 2.6,
    "histories": 2.0,
    "training_histories": 2.0,
    "item_pairs": 1.5,
    "multimodal_embeddings": 0.5,
    "index_tree": 0.5,
    "search_space": 0.0,
    "baselines": 2.6,
    "retrieval_model": 1.2,
    "evaluation": 2.0,
    "new_items": 0.0,
}
"""Where a step stands from left (content) to right (behavior); what is not named stands in the middle."""
WIDTH, HEIGHT, LANE, ROW = 172, 32, 196, 62


def main() -> None:
    """Rows are longest paths from the sources; edges are what Dagster knows."""
    graph = defs.resolve_asset_graph()
    names = {key: key.path[-1] for key in graph.toposorted_asset_keys}
    parents = {names[k]: sorted(names[p] for p in graph.get(k).parent_keys) for k in names}
    group = {names[k]: graph.get(k).group_name for k in names}
    row: dict[str, int] = {}
    for name in parents:
        row[name] = 1 + max((row[p] for p in parents[name]), default=-1)
    row["new_items"] = row["candidate"]  # beside what it is an alternative to
    # an edge is drawn where no longer path says the same
    direct = {n: [p for p in ps if not any(p in _above(q, parents) for q in ps if q != p)] for n, ps in parents.items()}
    place = {n: (14 + LANES.get(n, 1.5) * LANE, 14 + row[n] * ROW) for n in parents}
    width, height = 28 + 2.6 * LANE + WIDTH, 28 + max(row.values()) * ROW + HEIGHT
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="13">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    for name, above in direct.items():
        x, y = place[name][0] + WIDTH / 2, place[name][1]
        for parent in above:
            px, py = place[parent][0] + WIDTH / 2, place[parent][1] + HEIGHT
            bend = (y - py) * 0.55
            curve = f"M{px} {py} C{px} {py + bend} {x} {y - bend} {x} {y}"
            lines.append(f'<path d="{curve}" fill="none" stroke="#9ca3af" stroke-width="1.6"/>')
    for name, (x, y) in place.items():
        box = f'x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="7"'
        lines.append(f'<rect {box} fill="{COLOURS[group[name]]}"/>')
        middle = f'x="{x + WIDTH / 2}" y="{y + HEIGHT / 2 + 4.5}"'
        lines.append(f'<text {middle} fill="#ffffff" text-anchor="middle">{name}</text>')
    Path(__file__).with_name("lineage.svg").write_text("\n".join([*lines, "</svg>", ""]), encoding="utf-8")


def _above(name: str, parents: dict[str, list[str]]) -> set[str]:
    found: set[str] = set()
    for parent in parents[name]:
        found |= {parent, *_above(parent, parents)}
    return found


if __name__ == "__main__":
    main()
