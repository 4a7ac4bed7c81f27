// Lines between items of a scene, and places for the numbers on them.

// A smooth line from the far side of one item to the near side of another.
export function curve(a, b, scene) {
  if (scene.vertical) {
    const [from, to] = [a.y + a.h / 2, b.y - b.h / 2];
    const bend = (to - from) * 0.45;
    return `M${at(a.x)} ${at(from)}C${at(a.x)} ${at(from + bend)} ${at(b.x)} ${at(to - bend)} ${at(b.x)} ${at(to)}`;
  }
  const [from, to] = [a.x + a.w / 2, b.x - b.w / 2];
  const bend = (to - from) * 0.45;
  return `M${at(from)} ${at(a.y)}C${at(from + bend)} ${at(a.y)} ${at(to - bend)} ${at(b.y)} ${at(to)} ${at(b.y)}`;
}

export function at(value) {
  return Math.round(value * 10) / 10;
}

// Puts a number on each edge where it covers no other number; `free` says whether that worked.
export function placeNumbers(edges, scene) {
  const taken = scene.columns.flat().filter((item) => item.node);
  const labels = new Map();
  for (const { edge, a, b } of edges) {
    const spots = [0.5, 0.36, 0.64, 0.25, 0.75].map((t) => ({ ...beside(along(a, b, t, scene), scene), w: 44, h: 13 }));
    const spot = spots.find((one) => taken.every((other) => apart(one, other)));
    if (spot) taken.push(spot);
    labels.set(edge, { ...(spot ?? spots[0]), free: spot !== undefined });
  }
  return labels;
}

// Numbers stand just above lines that run across, and on lines that run down.
function beside({ x, y }, scene) {
  return scene.vertical ? { x, y } : { x, y: y - 8 };
}

function apart(one, other) {
  return Math.abs(one.x - other.x) > (one.w + other.w) / 2 || Math.abs(one.y - other.y) > (one.h + other.h) / 2;
}

// The point at share t of the curve from a to b.
function along(a, b, t, scene) {
  const [from, to] = scene.vertical ? [a.y + a.h / 2, b.y - b.h / 2] : [a.x + a.w / 2, b.x - b.w / 2];
  const [u, v] = [(1 - t) ** 2 * (1 + 2 * t), t ** 2 * (3 - 2 * t)];
  const ahead = from + (to - from) * (3 * (1 - t) ** 2 * t * 0.45 + 3 * (1 - t) * t ** 2 * 0.55 + t ** 3);
  return scene.vertical ? { x: u * a.x + v * b.x, y: ahead } : { x: ahead, y: u * a.y + v * b.y };
}
