// A layered drawing: items in columns, ordered to lessen crossings, then placed near what they are linked to.
//
// An item is {id, column, size, group?, fixed?}; a link is {a, b, weight} between items. Nothing here knows of pixels on a
// page or of circuits: the result is item.at, the place along its column, from 0.

const SWEEPS = 12;

// Orders and places the items of every column. `gap(a, b)` is the least distance between the middles of neighbours.
export function place(columns, links, gap) {
  const neighbours = neighboursOf(columns.flat(), links);
  columns.forEach((column) => column.forEach((item, rank) => (item.rank = rank)));
  let best = { crossings: crossings(columns, links), order: columns.map((column) => [...column]) };
  for (let sweep = 0; sweep < SWEEPS; sweep++) {
    const forward = sweep % 2 === 0;
    const turns = forward ? columns : [...columns].reverse();
    turns.forEach((column) => sortColumn(column, neighbours, forward));
    const now = crossings(columns, links);
    if (now < best.crossings) best = { crossings: now, order: columns.map((column) => [...column]) };
  }
  best.order.forEach((order, i) => columns[i].splice(0, order.length, ...order));
  align(columns, neighbours, gap);
  return best.crossings;
}

function neighboursOf(items, links) {
  const neighbours = new Map(items.map((item) => [item, []]));
  for (const { a, b, weight } of links) {
    neighbours.get(a).push({ other: b, weight });
    neighbours.get(b).push({ other: a, weight });
  }
  return neighbours;
}

// The weighted mean of what `of` says of an item's neighbours on the wanted sides; `without` if it has none.
function mean(item, neighbours, wanted, of, without) {
  let sum = 0;
  let total = 0;
  for (const { other, weight } of neighbours.get(item)) {
    if (!wanted(other)) continue;
    sum += weight * of(other);
    total += weight;
  }
  return total ? sum / total : without;
}

// Sorts a column by the barycentres of its items, keeping groups together and fixed columns as they are.
function sortColumn(column, neighbours, forward) {
  if (column.some((item) => item.fixed)) return;
  const wanted = (item) => (other) => (forward ? other.column < item.column : other.column > item.column);
  const rankOf = (other) => other.rank / Math.max(1, other.width - 1);
  const barycentre = new Map();
  for (const item of column) {
    barycentre.set(item, mean(item, neighbours, wanted(item), rankOf, item.rank / Math.max(1, item.width - 1)));
  }
  const groups = new Map();
  for (const item of column) {
    const key = item.group ?? item;
    groups.set(key, [...(groups.get(key) ?? []), item]);
  }
  const middle = (items) => items.reduce((sum, item) => sum + barycentre.get(item), 0) / items.length;
  const sorted = [...groups.values()].sort((a, b) => middle(a) - middle(b));
  for (const items of sorted)
    items.sort((a, b) => (a.part ?? 0) - (b.part ?? 0) || barycentre.get(a) - barycentre.get(b));
  column.splice(0, column.length, ...sorted.flat());
  column.forEach((item, rank) => (item.rank = rank));
}

// The number of crossing pairs of links between the same two columns.
export function crossings(columns, links) {
  columns.forEach((column) => column.forEach((item, rank) => Object.assign(item, { rank, width: column.length })));
  const between = new Map();
  for (const { a, b } of links) {
    const [left, right] = a.column < b.column ? [a, b] : [b, a];
    const key = `${left.column} ${right.column}`;
    between.set(key, [...(between.get(key) ?? []), [left.rank, right.rank]]);
  }
  let found = 0;
  for (const pairs of between.values()) {
    for (let i = 0; i < pairs.length; i++) {
      for (let j = 0; j < i; j++) found += (pairs[i][0] - pairs[j][0]) * (pairs[i][1] - pairs[j][1]) < 0;
    }
  }
  return found;
}

// Places every item as near as it can be to its neighbours, in order and with gaps.
function align(columns, neighbours, gap) {
  for (const column of columns) {
    column.forEach((item, i) => (item.at = i === 0 ? 0 : column[i - 1].at + gap(column[i - 1], item)));
    const middle = (column.at(-1)?.at ?? 0) / 2;
    column.forEach((item) => (item.at -= middle));
  }
  for (let sweep = 0; sweep < 2 * SWEEPS; sweep++) {
    const turns = sweep % 2 ? [...columns].reverse() : columns;
    for (const column of turns) {
      const wishes = column.map((item) =>
        mean(
          item,
          neighbours,
          () => true,
          (other) => other.at,
          amongMates(column, item),
        ),
      );
      spread(column, wishes, gap);
    }
  }
  const lowest = Math.min(...columns.flat().map((item) => item.at - item.size / 2));
  columns.flat().forEach((item) => (item.at -= lowest));
}

// Where an item without links would stand: amid its group, else where it is.
function amongMates(column, item) {
  const mates = item.group ? column.filter((other) => other.group === item.group) : [item];
  return mates.reduce((sum, other) => sum + other.at, 0) / mates.length;
}

// The places nearest to `wishes` (least squares) that keep the order and the gaps: isotonic regression, pooling neighbours.
export function spread(column, wishes, gap) {
  const pools = [];
  let offset = 0;
  column.forEach((item, i) => {
    if (i) offset += gap(column[i - 1], item);
    let pool = { sum: wishes[i] - offset, items: [{ item, offset }] };
    while (pools.length && average(pools.at(-1)) >= average(pool)) {
      const before = pools.pop();
      pool = { sum: before.sum + pool.sum, items: [...before.items, ...pool.items] };
    }
    pools.push(pool);
  });
  for (const pool of pools) for (const { item, offset: shift } of pool.items) item.at = average(pool) + shift;
}

function average(pool) {
  return pool.sum / pool.items.length;
}
