// The table of methods, the text, the jumps, and the panel that shows one target with what it looked back at.
function fillSettings() {
  for (const [name, value] of DATA.settings) {
    byId("settings").append(make("div", {}, make("dt", { textContent: name }), make("dd", { textContent: value })));
  }
}

function changeCell(perplexity, base, isBase) {
  const ratio = perplexity / base;
  return make("td", { textContent: isBase ? "" : percent(ratio), className: isBase ? "" : changeClass(ratio) });
}

// The table of methods over all items and, where there are several, over the one that is shown.
function fillMethods() {
  const several = DATA.items.length > 1, base = DATA.methods[0].perplexity;
  const highest = DATA.methods.reduce((a, { perplexity }) => Math.max(a, perplexity), 0);
  const titles = ["retrieval", several ? "all documents" : "perplexity", "change", ""];
  if (several) titles.push("this document", "change");
  const head = make("tr", {}, ...titles.map((textContent) => make("th", { textContent, className: textContent ? "" : "bar-cell" })));
  const rows = DATA.methods.map(({ name, perplexity }, method) => {
    const radio = make("input", { type: "radio", name: "method", value: method, checked: method === state.method });
    radio.addEventListener("change", () => showMethod(method));
    const bar = make("span", { className: "bar", style: { background: color(method), width: `${(200 * perplexity) / highest}px` } });
    const cells = [
      make("td", {}, make("label", {}, radio, swatch(method), name)),
      make("td", { textContent: fixed(perplexity) }),
      changeCell(perplexity, base, method === 0),
      make("td", { className: "bar-cell" }, bar),
    ];
    if (several) cells.push(make("td", { textContent: fixed(run(method).perplexity) }), changeCell(run(method).perplexity, run(0).perplexity, method === 0));
    return make("tr", { className: method === state.method ? "shown" : "" }, ...cells);
  });
  byId("methods").tBodies[0].replaceChildren(head, ...rows);
}

// With several documents: how many tokens each has, and what the shown method changes in it.
function fillItems() {
  byId("items").hidden = DATA.items.length < 2;
  const options = DATA.items.map((item, number) => {
    const change = compares() ? `, ${percent(item.runs[state.method].perplexity / item.runs[0].perplexity)}` : "";
    return make("option", { value: number, textContent: `${item.name} · ${count(item.tokens ?? 0)} tokens${change}`, selected: item === state.item });
  });
  byId("item").replaceChildren(...options);
  const number = DATA.items.indexOf(state.item);
  byId("item-before").disabled = number === 0;
  byId("item-after").disabled = number === DATA.items.length - 1;
}

function fillLegend() {
  const entries = DATA.methods.map(({ name }, method) => make("span", {}, swatch(method), name));
  byId("legend").replaceChildren(...entries);
}

// Every target's own text; its colour is what the shown method saves there.
function fillText() {
  byId("text-title").textContent = CHAT ? "The rows" : `The text${size() * DATA.chunk_size < state.item.tokens ? " that is scored" : ""}`;
  byId("text").setAttribute("aria-label", CHAT ? "Rows" : "Chunks of the text");
  const rows = state.item.targets.map((target, i) => {
    const parts = CHAT ? targetTexts(i) : targetTexts(i).slice(-1);
    const texts = parts.map(([, textContent]) => make("span", { className: "words", textContent }));
    const row = make("div", { className: "chunk", tabIndex: -1, attributes: { role: "option" } }, make("span", { className: "number", textContent: count(target) }), ...texts);
    row.dataset.target = i;
    return row;
  });
  byId("text").replaceChildren(...rows);
  paintText();
}

function paintText() {
  const gains = state.item.targets.map((_, i) => gain(i) ?? 0);
  const sizes = gains.map(Math.abs).sort((a, b) => a - b), scale = sizes[Math.floor(0.95 * (sizes.length - 1))] || 1;
  for (const [i, row] of [...byId("text").children].entries()) {
    const strength = Math.min(Math.abs(gains[i]) / scale, 1);
    const tone = `color-mix(in srgb, var(${gains[i] > 0 ? "--good" : "--bad"}) ${Math.round(100 * strength)}%, transparent)`;
    row.style.setProperty("--tone", compares() ? tone : "transparent");
  }
}

// Where the shown method helped most and least.
function fillJumps() {
  byId("jumps").hidden = !compares() || size() < 2;
  if (!compares()) return;
  const order = state.item.targets.map((_, i) => i).filter((i) => gain(i) !== null).sort((a, b) => gain(b) - gain(a));
  const line = (title, targets) => make("div", {}, make("span", { textContent: title }), ...targets.map((i) => {
    const button = make("button", { type: "button", className: changeClass(-gain(i) + 1), textContent: `${state.item.targets[i]}  ${signed(gain(i), 2)}` });
    button.addEventListener("click", () => select(i, true));
    return button;
  }));
  const helped = order.filter((i) => gain(i) > 0).slice(0, 6), hurt = order.filter((i) => gain(i) < 0).slice(-6).reverse();
  byId("jumps").replaceChildren(line("Helped most", helped), line("Hurt most", hurt));
}

// The losses of one target under each method, as rows of a table.
function lossRows(i) {
  return DATA.methods.map(({ name }, method) => {
    const loss = run(method).losses[i], saved = gain(i, method);
    const change = method && saved !== null ? signed(-saved) : "";
    return make("tr", {},
      make("td", {}, swatch(method), name),
      make("td", { textContent: fixed(loss) }),
      make("td", { textContent: change, className: change && saved ? (saved > 0 ? "better" : "worse") : "" }));
  });
}

// Text with the words of `shared` marked.
function marked(text, shared, className = "") {
  const parts = text.split(/([\p{L}\p{N}_]{4,})/u);
  const nodes = parts.map((part, i) => (i % 2 && shared.has(part.toLowerCase()) ? make("mark", { textContent: part }) : part));
  return make("pre", { className }, ...nodes);
}

function sourceCard(i, rank, wanted) {
  const source = run().sources[i][rank], score = run().scores[i][rank];
  const [text, continuation] = sourceTexts(i, source);
  const shade = `color-mix(in srgb, ${color(state.method)} ${Math.round(100 * rankShade(rank, run().sources[i].length))}%, #7a828c)`;
  const head = make("header", {},
    make("span", { className: "rank", style: { "--rank": shade }, textContent: `#${rank + 1}` }),
    make("b", { textContent: `${SOURCE} ${count(source)}` }),
    make("span", { className: "quiet", textContent: distance(i, source) }),
    make("span", { className: "quiet", textContent: score === null ? "" : `score ${+score.toPrecision(4)}` }));
  const there = CHAT ? -1 : source - state.item.targets[0];
  if (there >= 0) {
    const button = make("button", { type: "button", textContent: "go there" });
    button.addEventListener("click", () => select(there, true));
    head.append(button);
  }
  const card = make("article", { className: "card" }, head, marked(text, wanted));
  if (continuation !== undefined) card.append(marked(continuation, wanted, "continuation"));
  card.dataset.source = source;
  return card;
}

function retrievedCards(i) {
  const { sources } = run(), method = DATA.methods[state.method].name;
  if (!sources[i].length) {
    const reason = method === "no" ? "This method does not look back." : "Nothing was retrieved: no key stands before the window.";
    return [make("p", { className: "none", textContent: CHAT && method !== "no" ? "Nothing was retrieved: there is no history." : reason })];
  }
  const wanted = words(targetTexts(i).at(-1)[1]);
  return sources[i].map((_, rank) => sourceCard(i, rank, wanted));
}

function fillDetail() {
  const i = state.selected, parts = targetTexts(i);
  const found = new Set(run().sources[i].flatMap((source) => sourceTexts(i, source)).flatMap((text) => [...words(text ?? "")]));
  const before = make("button", { type: "button", textContent: "‹", disabled: i === 0, attributes: { "aria-label": `${UNIT} before` } });
  const after = make("button", { type: "button", textContent: "›", disabled: i === size() - 1, attributes: { "aria-label": `${UNIT} after` } });
  before.addEventListener("click", () => select(i - 1, true));
  after.addEventListener("click", () => select(i + 1, true));
  const title = make("h2", { textContent: `${UNIT} ${count(state.item.targets[i])}` });
  const head = make("header", {}, title, make("small", { className: "quiet", textContent: subtitle(i) }), make("span", {}, before, " ", after));
  const pills = DATA.methods.map(({ name }, method) => {
    const pill = make("button", { type: "button", attributes: { "aria-pressed": method === state.method } }, swatch(method), name);
    pill.addEventListener("click", () => showMethod(method));
    return pill;
  });
  const heading = make("tr", {}, ...["", "loss", "change"].map((textContent) => make("th", { textContent })));
  byId("detail").replaceChildren(
    head,
    make("table", {}, make("tbody", {}, heading, ...lossRows(i))),
    ...parts.flatMap(([name, text, main]) => [make("h3", { textContent: name }), marked(text, main ? found : new Set(), main ? "" : "context")]),
    make("h3", { textContent: "What it looked back at; marked: words of the scored text" }),
    make("div", { className: "pills" }, ...pills),
    make("div", { id: "retrieved" }, ...retrievedCards(i)));
}
