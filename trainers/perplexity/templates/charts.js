// Three canvases over one axis of targets: losses, what was gained, and which source each target looked back at.
const LEFT = 48, RIGHT = 10, TOP = 6, BOTTOM = 20;
const MOST_POINTS = 150; // up to so many targets in view are drawn one by one; more are also smoothed

function ink(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

// A canvas ready to draw in CSS pixels.
function prepare(id) {
  const canvas = byId(id), ratio = window.devicePixelRatio || 1;
  const width = canvas.clientWidth, height = Number(canvas.dataset.height ||= canvas.getAttribute("height"));
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  canvas.style.height = `${height}px`;
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  context.font = "11px system-ui, sans-serif";
  return { context, width, height, right: width - RIGHT, bottom: height - BOTTOM };
}

// Where target i stands, and which one stands at x: both in CSS pixels of a canvas.
function column(chart) {
  return (chart.right - LEFT) / (state.high - state.low + 1);
}

function xOf(chart, i) {
  return LEFT + (i - state.low + 0.5) * column(chart);
}

function targetAt(x, width) {
  const i = state.low + Math.floor((x - LEFT) / column({ right: width - RIGHT }));
  return Math.min(Math.max(i, state.low), state.high);
}

// Round numbers between low and high, `most` of them or fewer.
function ticks(low, high, most, whole = false) {
  const rough = Math.max((high - low) / most, 1e-9), power = 10 ** Math.floor(Math.log10(rough));
  let step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
  if (whole) step = Math.max(Math.round(step), 1);
  const found = [];
  for (let value = Math.ceil(low / step - 1e-9) * step; value <= high + step * 1e-6; value += step) found.push(value || 0); // no -0
  return found;
}

// Axes and grid; returns the function from values to y.
function frame(chart, low, high, whole, label = (value) => String(+value.toFixed(4))) {
  const { context, right, bottom } = chart;
  const y = (value) => bottom - ((value - low) / (high - low || 1)) * (bottom - TOP);
  context.fillStyle = ink("--quiet");
  context.strokeStyle = ink("--rule");
  context.lineWidth = 1;
  context.textAlign = "right";
  context.textBaseline = "middle";
  for (const value of ticks(low, high, Math.max(2, Math.floor((bottom - TOP) / 40)), whole)) {
    const row = Math.round(y(value)) + 0.5;
    context.beginPath();
    context.moveTo(LEFT, row);
    context.lineTo(right, row);
    context.stroke();
    context.fillText(label(value), LEFT - 7, row);
  }
  context.textAlign = "center";
  context.textBaseline = "top";
  const first = state.item.targets[state.low], last = state.item.targets[state.high];
  for (const target of ticks(first, last, Math.max(2, Math.floor((right - LEFT) / 90)), true)) {
    context.fillText(count(target), xOf(chart, state.low + target - first), bottom + 5);
  }
  return y;
}

function visible(values) {
  return values.slice(state.low, state.high + 1);
}

// Each value as the mean of those around it, `radius` on either side; nulls left out.
function smooth(values, radius) {
  const sums = [0], counts = [0];
  for (const value of values) {
    sums.push(sums.at(-1) + (value ?? 0));
    counts.push(counts.at(-1) + (value === null ? 0 : 1));
  }
  return values.map((_, i) => {
    const low = Math.max(i - radius, 0), high = Math.min(i + radius + 1, values.length);
    return counts[high] > counts[low] ? (sums[high] - sums[low]) / (counts[high] - counts[low]) : null;
  });
}

function drawLine(chart, y, values) {
  const { context } = chart;
  context.beginPath();
  let pen = false;
  for (let i = state.low; i <= state.high; i++) {
    if (values[i] === null) {
      pen = false;
      continue;
    }
    if (pen) context.lineTo(xOf(chart, i), y(values[i]));
    else context.moveTo(xOf(chart, i), y(values[i]));
    pen = true;
  }
  context.stroke();
}

function drawPoints(chart, y, values) {
  for (let i = state.low; i <= state.high; i++) {
    if (values[i] === null) continue;
    chart.context.beginPath();
    chart.context.arc(xOf(chart, i), y(values[i]), CHAT ? 4 : 2.6, 0, 2 * Math.PI);
    chart.context.fill();
  }
}

// Chat rows have no order to draw a line along: their points hang on a stem from the base's to the shown method's.
function drawStems(chart, y) {
  const { context } = chart, base = run(0).losses, shown = run().losses;
  context.strokeStyle = ink("--rule");
  context.lineWidth = 3;
  for (let i = state.low; i <= state.high; i++) {
    if (base[i] === null || shown[i] === null) continue;
    context.beginPath();
    context.moveTo(xOf(chart, i), y(base[i]));
    context.lineTo(xOf(chart, i), y(shown[i]));
    context.stroke();
  }
}

function drawLosses() {
  const chart = prepare("loss"), { context } = chart, inView = state.high - state.low + 1;
  const values = state.item.runs.flatMap((item) => visible(item.losses)).filter((value) => value !== null);
  const low = values.reduce((a, b) => Math.min(a, b), Infinity), high = values.reduce((a, b) => Math.max(a, b), -Infinity);
  const margin = Math.max((high - low) * 0.06, 0.01), radius = inView > MOST_POINTS ? Math.ceil(inView / 120) : 0;
  const y = frame(chart, low - margin, high + margin);
  if (CHAT) drawStems(chart, y);
  const methods = state.item.runs.map((_, method) => method).sort((a, b) => (a === state.method) - (b === state.method));
  for (const method of methods) {
    const losses = run(method).losses;
    const strong = method === state.method || method === 0;
    context.strokeStyle = context.fillStyle = ink(`--m${method % 8}`);
    context.lineWidth = strong ? 1.8 : 1.1;
    context.globalAlpha = strong ? 1 : 0.5;
    if (radius) {
      context.globalAlpha *= 0.22;
      drawLine(chart, y, losses);
      context.globalAlpha = strong ? 1 : 0.5;
      drawLine(chart, y, smooth(losses, radius));
    } else {
      if (!CHAT) drawLine(chart, y, losses);
      drawPoints(chart, y, losses);
    }
  }
  context.globalAlpha = 1;
  const smoothed = radius ? `; bold: the mean of ${2 * radius + 1}` : "";
  byId("loss-title").textContent = `Loss of each ${CHAT ? "answer" : "chunk"}, nats a token${smoothed}`;
}

function drawGains() {
  const figure = byId("gain").parentElement;
  figure.hidden = !compares();
  if (!compares()) return;
  const chart = prepare("gain"), { context } = chart, gains = [];
  for (let i = 0; i < size(); i++) gains.push(gain(i));
  const values = visible(gains).map((value) => value ?? 0);
  const low = values.reduce((a, b) => Math.min(a, b), -0.01), high = values.reduce((a, b) => Math.max(a, b), 0.01);
  const y = frame(chart, low * 1.05, high * 1.05), width = Math.min(Math.max(column(chart) * 0.8, 1), 26);
  const good = ink("--good"), bad = ink("--bad");
  for (let i = state.low; i <= state.high; i++) {
    if (gains[i] === null) continue;
    context.fillStyle = gains[i] > 0 ? good : bad;
    context.fillRect(xOf(chart, i) - width / 2, Math.min(y(0), y(gains[i])), width, Math.max(Math.abs(y(gains[i]) - y(0)), 0.6));
  }
  const base = DATA.methods[0].name, shown = DATA.methods[state.method].name;
  byId("gain-title").textContent = `What ${shown} saves against ${base}, nats a token (up: looking back helps)`;
}

function drawMap() {
  const { sources } = run(), found = sources.some((row) => row.length);
  byId("map").parentElement.hidden = !found;
  if (!found) return;
  const chart = prepare("map"), { context } = chart;
  const tops = CHAT ? state.item.rows.map((row) => row.turns.length) : [state.item.targets.at(-1)];
  const high = tops.reduce((a, b) => Math.max(a, b), 1), y = frame(chart, -0.02 * high, 1.02 * high, true, count);
  if (!CHAT) {
    context.strokeStyle = ink("--rule");
    context.lineWidth = 2;
    drawLine(chart, y, state.item.targets);
  }
  const width = Math.min(Math.max(column(chart) * 0.8, 2), 16), height = Math.min(Math.max((chart.bottom - TOP) / high, 2.5), 12);
  context.fillStyle = ink(`--m${state.method % 8}`);
  for (let i = state.low; i <= state.high; i++) {
    for (let rank = sources[i].length - 1; rank >= 0; rank--) {
      context.globalAlpha = rankShade(rank, sources[i].length);
      context.fillRect(xOf(chart, i) - width / 2, y(sources[i][rank]) - height / 2, width, height);
    }
  }
  context.globalAlpha = 1;
  const stronger = matchMedia("(prefers-color-scheme: dark)").matches ? "brighter" : "darker";
  const diagonal = CHAT ? "" : ", line: the chunk itself", method = DATA.methods[state.method].name;
  byId("map-title").textContent = `The ${SOURCE}s that ${method} looked back at (${stronger}: more relevant${diagonal})`;
}

function rankShade(rank, ranks) {
  return 1 - 0.75 * (ranks > 1 ? rank / (ranks - 1) : 0);
}

function drawCharts() {
  drawLosses();
  drawGains();
  drawMap();
}
