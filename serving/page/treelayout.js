// Where the nodes of an opened tree are drawn: a column a level, a row for each node that shows no children. Pure; no document.

export const ROW = 42;
export const COLUMN = 196;

/** nodes: Map of number -> {node, parent, level, ...}; open: Set of numbers whose children are shown.
 *  Returns {placed: [{...node, x, y, shown: [children]}], width, height}, parents before children. */
export function layout(nodes, open) {
  const below = new Map();
  for (const each of nodes.values()) {
    if (!below.has(each.parent)) below.set(each.parent, []);
    below.get(each.parent).push(each);
  }
  const placed = [];
  let rows = 0;
  let deepest = 0;
  const place = (each) => {
    const mine = { ...each, x: each.level * COLUMN, y: 0, shown: open.has(each.node) ? below.get(each.node) ?? [] : [] };
    placed.push(mine);
    deepest = Math.max(deepest, each.level);
    if (mine.shown.length) {
      const found = mine.shown.sort((a, b) => a.node - b.node).map(place);
      mine.shown = found;
      mine.y = (found[0].y + found.at(-1).y) / 2;
    } else {
      mine.y = rows * ROW;
      rows += 1;
    }
    return mine;
  };
  const root = nodes.get(0);
  if (root) place(root);
  return { placed, width: (deepest + 1) * COLUMN, height: Math.max(rows, 1) * ROW };
}

/** A ribbon between two nodes, as an SVG path. */
export function ribbon(from, to, left, right) {
  const middle = (left + right) / 2;
  return `M${left},${from} C${middle},${from} ${middle},${to} ${right},${to}`;
}
