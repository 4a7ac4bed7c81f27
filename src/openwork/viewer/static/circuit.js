// The payload as a graph: nodes with their edges, the threads of the residual stream, tokens and answers.

// Reads the data element of the page.
export function readPayload(id = "payload") {
  const payload = JSON.parse(document.getElementById(id).textContent);
  if (payload.version !== 1) throw new Error(`this page reads payloads of version 1, not ${payload.version}`);
  return payload;
}

const isRead = (node) => node.kind.endsWith("act_in");
const isWrite = (node) => node.kind.endsWith("resid_delta");

// The graph that the panels share. Node i of the payload is nodes[i]; links hold node numbers.
export function graphOf(payload) {
  const nodes = payload.nodes.map((node, id) => ({ ...node, id, incoming: [], outgoing: [], tokens: [], answers: [] }));
  const edges = payload.edges.map(([source, target, weight], id) => ({ id, source, target, weight }));
  for (const edge of edges) {
    nodes[edge.source].outgoing.push(edge);
    nodes[edge.target].incoming.push(edge);
  }
  const strongest = (a, b) => Math.abs(b.weight) - Math.abs(a.weight);
  for (const node of nodes) {
    node.incoming.sort(strongest);
    node.outgoing.sort(strongest);
  }
  const graph = { payload, nodes, edges, text: (id) => payload.texts[id] ?? `token ${id}` };
  graph.columns = columnsOf(nodes);
  graph.threads = threadsOf(graph);
  graph.byName = new Map(nodes.map((node) => [node.name, node]));
  graph.largestWeight = Math.max(1e-9, ...edges.map((edge) => Math.abs(edge.weight)));
  return graph;
}

// The sites that have nodes, in forward order; q, k and v of a layer share a column.
function columnsOf(nodes) {
  const columns = [];
  for (const node of nodes) {
    const isHead = node.head !== null;
    const name = isHead ? `${node.layer}.attn` : node.site.slice(0, node.site.lastIndexOf("."));
    const part = isHead ? "q k v" : node.site.slice(node.site.lastIndexOf(".") + 1);
    let column = columns.find((other) => other.name === name && other.part === part);
    if (!column) columns.push((column = { name, part, nodes: [] }));
    column.nodes.push(node);
    node.column = columns.indexOf(column);
  }
  return columns;
}

// One thread per residual channel that links something: from the embedding or the first write to the last read or the answers.
function threadsOf(graph) {
  const channels = new Map();
  for (const node of graph.nodes) {
    if (!isRead(node) && !isWrite(node)) continue;
    if (!channels.has(node.index))
      channels.set(node.index, { channel: node.index, beads: [], tokens: [], answers: [] });
    channels.get(node.index).beads.push(node);
  }
  for (const [token, channel, weight] of graph.payload.embedding) channels.get(channel)?.tokens.push({ token, weight });
  for (const [channel, token, weight] of graph.payload.unembedding)
    channels.get(channel)?.answers.push({ token, weight });
  return [...channels.values()].map(withEnds).filter((thread) => thread !== null);
}

function withEnds(thread) {
  const reads = thread.beads.filter(isRead);
  const writes = thread.beads.filter(isWrite);
  if (!reads.length) thread.tokens = [];
  if (!writes.length) thread.answers = [];
  const from = thread.tokens.length ? -1 : Math.min(...writes.map((node) => node.column));
  const to = thread.answers.length ? Infinity : Math.max(...reads.map((node) => node.column));
  if (!(from < to)) return null;
  for (const node of reads) node.tokens = thread.tokens;
  for (const node of writes) node.answers = thread.answers;
  for (const node of thread.beads) node.thread = thread;
  return Object.assign(thread, { from, to });
}

// Nodes that write into the residual channel that `node` reads, earlier; or that read what it writes, later.
export function alongThread(node) {
  const beads = node.thread?.beads ?? [];
  if (isRead(node)) return beads.filter((other) => isWrite(other) && other.column < node.column);
  return isWrite(node) ? beads.filter((other) => isRead(other) && other.column > node.column) : [];
}

// What a node is, in a few words.
export function roleOf(node) {
  const role = {
    "attn.act_in": "residual channel read by attention",
    "attn.q": "query channel",
    "attn.k": "key channel",
    "attn.v": "value channel",
    "attn.resid_delta": "residual channel written by attention",
    "mlp.act_in": "residual channel read by the MLP",
    "mlp.post_act": "MLP neuron",
    "mlp.resid_delta": "residual channel written by the MLP",
  }[node.kind];
  return `${role ?? node.kind}, layer ${node.layer}`;
}

// The text at the place in the corpus where the node is most active, of either sign; null if it never is.
export function peakText(graph, node) {
  const tops = [node.positive[0], node.negative[0]].filter(Boolean);
  if (!tops.length) return null;
  const size = (window) => Math.abs(window.values[window.peak]);
  const top = tops.reduce((a, b) => (size(a) >= size(b) ? a : b));
  return graph.text(top.tokens[top.peak]);
}
