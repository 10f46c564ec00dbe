// The page's data, and what differs between documents (chunks look back at chunks) and chats (rows at turns).
const DATA = JSON.parse(document.getElementById("data").textContent);
const CHAT = DATA.kind === "chat";
const UNIT = CHAT ? "Row" : "Chunk";
const SOURCE = CHAT ? "turn" : "chunk";

// The first method is the base of the comparison; what is shown is another one where there is one.
const state = { item: DATA.items[0], method: Math.min(1, DATA.methods.length - 1), selected: 0, low: 0, high: 0 };

const color = (method) => `var(--m${method % 8})`;
const count = (number) => number.toLocaleString("en-US");
const fixed = (number, digits = 3) => (number === null ? "–" : number.toFixed(digits));
const signed = (number, digits = 3) => `${number > 0 ? "+" : number < 0 ? "−" : "±"}${Math.abs(number).toFixed(digits)}`;
const percent = (ratio) => `${signed(100 * (ratio - 1), 1)} %`;
const run = (method = state.method) => state.item.runs[method];
const size = () => state.item.targets.length;
const changeClass = (ratio) => (ratio < 1 ? "better" : ratio > 1 ? "worse" : "");

// Nats a token that the method saves against the base; null where nothing was scored.
function gain(i, method = state.method) {
  const base = run(0).losses[i], loss = run(method).losses[i];
  return base === null || loss === null ? null : base - loss;
}

function compares() {
  return state.method !== 0;
}

// [first, last] token of a chunk. The first chunk may begin before the document, the last one end behind it.
function tokenRange(chunk) {
  const first = state.item.start + chunk * DATA.chunk_size;
  return [Math.max(first, 0), Math.min(first + DATA.chunk_size, state.item.tokens) - 1];
}

// The texts of a target: [title, text, whether it is what was scored].
function targetTexts(i) {
  const target = state.item.targets[i];
  if (CHAT) {
    const row = state.item.rows[i];
    return [["Query", row.query, false], ["Answer, which is scored", row.answer, true]];
  }
  const texts = state.item.texts, scored = ["The chunk that is scored", texts[target], true];
  return target > 0 ? [["The chunk before it: the query", texts[target - 1], false], scored] : [scored];
}

// The texts of a retrieved source: a turn; a chunk and the one after it.
function sourceTexts(i, source) {
  const texts = state.item.texts;
  return CHAT ? [texts[state.item.rows[i].turns[source]]] : [texts[source], texts[source + 1]];
}

function distance(i, source) {
  if (CHAT) {
    const turns = state.item.rows[i].turns.length - source;
    return `${turns} ${turns === 1 ? "turn" : "turns"} back`;
  }
  const chunks = state.item.targets[i] - source;
  return `${count(chunks)} back (${count(chunks * DATA.chunk_size)} tokens)`;
}

function subtitle(i) {
  if (CHAT) return `${state.item.rows[i].turns.length} turns of history`;
  const [first, last] = tokenRange(state.item.targets[i]);
  return `tokens ${count(first)} to ${count(last)} of ${count(state.item.tokens)}`;
}

// Words of four letters or more, in lower case.
function words(text) {
  return new Set((text.toLowerCase().match(/[\p{L}\p{N}_]{4,}/gu)) || []);
}

// A new element. Every text of the page goes through here, as text: none is ever read as HTML.
function make(tag, properties = {}, ...children) {
  const { style = {}, attributes = {}, ...rest } = properties;
  const element = Object.assign(document.createElement(tag), rest);
  for (const [name, value] of Object.entries(style)) element.style.setProperty(name, value);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const swatch = (method) => make("span", { className: "swatch", style: { background: color(method) } });
const byId = (id) => document.getElementById(id);
