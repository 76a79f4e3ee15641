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
}
WIDTH, HEIGHT, GAP_X, GAP_Y = 168, 34, 40, 18


def main() -> None:
    """Columns are longest paths from the sources; edges are what Dagster knows."""
    graph = defs.resolve_asset_graph()
    names = {key: key.path[-1] for key in graph.toposorted_asset_keys}
    parents = {names[k]: sorted(names[p] for p in graph.get(k).parent_keys) for k in names}
    group = {names[k]: graph.get(k).group_name for k in names}
    column: dict[str, int] = {}
    for name in parents:
        column[name] = 1 + max((column[p] for p in parents[name]), default=-1)
    # an edge is drawn where no longer path says the same
    direct = {n: [p for p in ps if not any(p in _above(q, parents) for q in ps if q != p)] for n, ps in parents.items()}
    rows = {c: [n for n in parents if column[n] == c] for c in range(max(column.values()) + 1)}
    tallest = max(map(len, rows.values()))
    place = {}
    for c, members in rows.items():
        top = (tallest - len(members)) * (HEIGHT + GAP_Y) / 2
        for i, name in enumerate(members):
            place[name] = (12 + c * (WIDTH + GAP_X), 12 + top + i * (HEIGHT + GAP_Y))
    width, height = 24 + len(rows) * (WIDTH + GAP_X) - GAP_X, 24 + tallest * (HEIGHT + GAP_Y) - GAP_Y
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="13">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    for name, above in direct.items():
        x, y = place[name]
        for parent in above:
            px, py = place[parent][0] + WIDTH, place[parent][1] + HEIGHT / 2
            cy = y + HEIGHT / 2
            bend = (x - px) / 2
            curve = f"M{px} {py} C{px + bend} {py} {x - bend} {cy} {x} {cy}"
            lines.append(f'<path d="{curve}" fill="none" stroke="#9ca3af" stroke-width="1.4"/>')
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
