// Choosing, zooming, and the events that lead to them.
function placeLine(id, i) {
  const line = byId(id), canvases = [...document.querySelectorAll("#charts canvas")].filter((canvas) => canvas.clientWidth);
  line.hidden = i === null || i < state.low || i > state.high;
  if (line.hidden) return;
  const first = canvases[0], last = canvases.at(-1);
  line.style.left = `${first.offsetLeft + xOf({ right: first.clientWidth - RIGHT }, i)}px`;
  line.style.top = `${first.offsetTop + TOP}px`;
  line.style.height = `${last.offsetTop + last.clientHeight - BOTTOM - first.offsetTop - TOP}px`;
}

function redraw() {
  drawCharts();
  placeLine("selected-line", state.selected);
  placeLine("hover-line", null);
}

function show(low, high) {
  const least = Math.min(4, size() - 1);
  low = Math.max(0, Math.round(low));
  high = Math.min(size() - 1, Math.round(high));
  if (high - low < least) {
    low = Math.max(0, Math.min(low, size() - 1 - least));
    high = low + least;
  }
  Object.assign(state, { low, high });
  redraw();
}

// Keeps the chosen target in view and as far from the left as it is.
function zoom(factor) {
  const share = (state.selected - state.low) / Math.max(state.high - state.low, 1);
  const inside = share >= 0 && share <= 1 ? share : 0.5, centre = state.low + inside * (state.high - state.low);
  const length = (state.high - state.low) * factor;
  show(centre - inside * length, centre + (1 - inside) * length);
}

// Chooses a target everywhere: charts, slider, text and panel. `reveal` scrolls the text to it.
function select(i, reveal = false) {
  byId("text").children[state.selected]?.classList.remove("selected");
  state.selected = Math.min(Math.max(i, 0), size() - 1);
  const row = byId("text").children[state.selected];
  for (const other of byId("text").querySelectorAll('[tabindex="0"]')) other.tabIndex = -1;
  row.classList.add("selected");
  row.tabIndex = 0; // of all rows only the chosen one is a tab stop; the arrow keys go on from there
  if (reveal) byId("text").scrollTo({ top: row.offsetTop - byId("text").clientHeight / 3 });
  byId("slider").value = state.selected;
  byId("slider").setAttribute("aria-valuetext", `${UNIT} ${state.item.targets[state.selected]}`);
  if (state.selected < state.low || state.selected > state.high) {
    const half = (state.high - state.low) / 2;
    show(state.selected - half, state.selected + half);
  }
  placeLine("selected-line", state.selected);
  fillDetail();
}

function showMethod(method) {
  state.method = method;
  fillMethods();
  fillItems();
  fillJumps();
  paintText();
  fillDetail();
  redraw();
}

// Opens an item at the target where looking back helps most.
function showItem(item) {
  Object.assign(state, { item, selected: 0, low: 0, high: item.targets.length - 1 });
  const best = item.targets.reduce((a, _, b) => ((gain(b) ?? -Infinity) > (gain(a) ?? -Infinity) ? b : a), 0);
  byId("slider").max = size() - 1;
  byId("slider").setAttribute("aria-label", `Choose a ${UNIT.toLowerCase()}`);
  fillMethods();
  fillItems();
  fillText();
  fillJumps();
  redraw();
  select(best, true);
}

function showTooltip(event, i) {
  const tooltip = byId("tooltip");
  tooltip.replaceChildren(make("b", { textContent: `${UNIT} ${count(state.item.targets[i])}` }), make("table", {}, make("tbody", {}, ...lossRows(i))));
  tooltip.hidden = false;
  const left = event.clientX + 16 + tooltip.offsetWidth > window.innerWidth ? event.clientX - tooltip.offsetWidth - 12 : event.clientX + 16;
  tooltip.style.left = `${left}px`;
  tooltip.style.top = `${Math.max(4, Math.min(event.clientY + 12, window.innerHeight - tooltip.offsetHeight - 4))}px`;
}

function hideTooltip() {
  byId("tooltip").hidden = true;
  placeLine("hover-line", null);
}

// A press and release is a choice; a drag is a stretch to zoom into.
function watchCanvas(canvas) {
  let start = null;
  const brush = make("div", { id: "brush", hidden: true });
  const dragged = (event) => start !== null && Math.abs(event.offsetX - start) > 5;
  canvas.addEventListener("pointerdown", (event) => {
    start = event.offsetX;
    canvas.setPointerCapture(event.pointerId);
    canvas.parentElement.append(brush);
  });
  canvas.addEventListener("pointermove", (event) => {
    const i = targetAt(event.offsetX, canvas.clientWidth);
    placeLine("hover-line", i);
    showTooltip(event, i);
    brush.hidden = !dragged(event);
    if (brush.hidden) return;
    brush.style.left = `${canvas.offsetLeft + Math.min(start, event.offsetX)}px`;
    brush.style.width = `${Math.abs(event.offsetX - start)}px`;
    brush.style.top = `${canvas.offsetTop}px`;
    brush.style.height = `${canvas.clientHeight}px`;
  });
  canvas.addEventListener("pointerup", (event) => {
    const i = targetAt(event.offsetX, canvas.clientWidth);
    if (dragged(event)) {
      const from = targetAt(start, canvas.clientWidth);
      show(Math.min(from, i), Math.max(from, i));
    } else if (start !== null) select(i, true);
    start = null;
    brush.remove();
  });
  canvas.addEventListener("pointercancel", () => {
    start = null;
    brush.remove();
  });
  canvas.addEventListener("pointerleave", hideTooltip);
  canvas.addEventListener("dblclick", () => show(0, size() - 1));
}

const KEYS = {
  ArrowLeft: () => select(state.selected - 1, true), ArrowRight: () => select(state.selected + 1, true),
  ArrowUp: () => select(state.selected - 1, true), ArrowDown: () => select(state.selected + 1, true),
  PageUp: () => select(state.selected - 10, true), PageDown: () => select(state.selected + 10, true),
  Home: () => select(0, true), End: () => select(size() - 1, true),
  "+": () => zoom(0.5), "-": () => zoom(2), Escape: () => show(0, size() - 1),
};

function press(event) {
  if (!KEYS[event.key] || event.target.type === "range" || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  KEYS[event.key]();
}

function watch() {
  for (const canvas of document.querySelectorAll("#charts canvas")) watchCanvas(canvas);
  byId("charts").addEventListener("keydown", press);
  byId("text").addEventListener("keydown", (event) => {
    press(event);
    if (KEYS[event.key]) byId("text").children[state.selected].focus({ preventScroll: true });
  });
  const choose = (event) => {
    const row = event.target.closest(".chunk");
    if (row && Number(row.dataset.target) !== state.selected) select(Number(row.dataset.target));
  };
  byId("text").addEventListener("click", choose);
  byId("text").addEventListener("focusin", choose);
  byId("slider").addEventListener("input", (event) => select(Number(event.target.value), true));
  byId("zoom-in").addEventListener("click", () => zoom(0.5));
  byId("zoom-out").addEventListener("click", () => zoom(2));
  byId("zoom-all").addEventListener("click", () => show(0, size() - 1));
  byId("item").addEventListener("change", (event) => showItem(DATA.items[Number(event.target.value)]));
  byId("item-before").addEventListener("click", () => showItem(DATA.items[DATA.items.indexOf(state.item) - 1]));
  byId("item-after").addEventListener("click", () => showItem(DATA.items[DATA.items.indexOf(state.item) + 1]));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  new ResizeObserver(redraw).observe(byId("charts"));
}

fillSettings();
fillLegend();
showItem(DATA.items[0]);
watch();
