// Where the nodes of an opened tree are drawn: a column a level, a row for each node that shows no children. Pure; no document.

export const BOX = { width: 118, height: 48 };
export const ROW = 56;
export const COLUMN = 143;

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
    const mine = { ...each, x: each.level * COLUMN, y: 0, shown: [] };
    placed.push(mine);
    deepest = Math.max(deepest, each.level);
    const children = open.has(each.node) ? below.get(each.node) ?? [] : [];
    mine.shown = children.sort((a, b) => a.node - b.node).map(place);
    if (mine.shown.length) mine.y = (mine.shown[0].y + mine.shown.at(-1).y) / 2;
    else {
      mine.y = rows * ROW;
      rows += 1;
    }
    return mine;
  };
  const root = nodes.get(0);
  if (root) place(root);
  return { placed, width: deepest * COLUMN + BOX.width, height: Math.max(rows, 1) * ROW };
}

/** A ribbon between two nodes, as an SVG path. */
export function ribbon(from, to, left, right) {
  const middle = (left + right) / 2;
  return `M${left},${from} C${middle},${from} ${middle},${to} ${right},${to}`;
}

/** A label in at most two lines of so many letters: a category a line where there are several. */
export function lines(label, letters) {
  const short = (text) => (text.length > letters ? `${text.slice(0, letters - 1).trimEnd()}…` : text);
  const parts = label.split(" · ");
  if (parts.length > 1) return parts.slice(0, 2).map(short);
  const words = label.split(" ");
  let first = words.shift() ?? "";
  while (words.length && `${first} ${words[0]}`.length <= letters) first += ` ${words.shift()}`;
  return words.length ? [short(first), short(words.join(" "))] : [short(first)];
}
