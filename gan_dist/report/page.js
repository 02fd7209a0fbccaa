"use strict";

// What the reader has chosen, by the key of a block: it stays when the block is renewed.
const zooms = new Map(), hiddenGroups = new Map();
const charts = new Map();
const FEW = 6, NEAR = 40;

const colour = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const shown = value => {
  if (value == null) return "";
  const size = Math.abs(value);
  if (size && (size < 1e-4 || size >= 1e7)) return value.toExponential(2);
  return value.toLocaleString("en", {maximumSignificantDigits: 5, useGrouping: size >= 1e4});
};

// Return one table of all series for uPlot, and the words of its rows.
function columns(figure) {
  if (!figure.scatter) {
    const tables = figure.data.map(one => [one.x, one.y, ...(one.low ? [one.low, one.high] : [])]);
    return {table: tables.length ? uPlot.join(tables) : [[]], words: []};
  }
  const points = figure.data.flatMap((one, series) =>
    one.x.map((x, at) => ({x, series, y: one.y[at], words: one.words ? one.words[at] : ""})));
  points.sort((one, other) => one.x - other.x);
  const table = figure.data.map((_, series) => points.map(one => one.series === series ? one.y : null));
  return {table: [points.map(one => one.x), ...table], words: points.map(one => one.words)};
}

// Return uPlot's series and bands; `owner` has the number of the figure's series for each of them.
function lines(figure) {
  const series = [{}], bands = [], owner = [-1];
  figure.data.forEach((one, at) => {
    const line = one.line !== false, size = one.points || 0;
    const look = {stroke: line ? one.color : undefined, width: one.width || 2, dash: one.dash};
    const paths = line ? (one.stepped ? uPlot.paths.stepped({align: 1}) : undefined) : () => null;
    const points = {show: size > 0, size, stroke: one.color, fill: one.color};
    series.push({label: one.name, ...look, points, ...(paths ? {paths} : {})});
    owner.push(at);
    if (one.low) {
      bands.push({series: [series.length + 1, series.length], fill: one.color + "26"});
      series.push({points: {show: false}, width: 0}, {points: {show: false}, width: 0});
      owner.push(-1, -1);
    }
  });
  return {series, bands, owner};
}

// Return the number of the row with a value of a series that is nearest to the pointer, if it is near.
function nearestRow(plot, series, row) {
  const values = plot.data[series], x = plot.data[0];
  const far = at => Math.abs(plot.valToPos(x[at], "x") - plot.cursor.left) > NEAR;
  for (let away = 0; away < values.length; away++) {
    const before = row - away, after = row + away;
    if (values[before] != null) return far(before) ? null : before;
    if (values[after] != null) return far(after) ? null : after;
  }
  return null;
}

function tip(plot, figure, owner, words, box) {
  const {left, top, idxs} = plot.cursor;
  let rows = owner.flatMap((at, series) => {
    const row = at >= 0 && plot.series[series].show ? idxs[series] : null;
    if (row == null) return [];
    const x = plot.data[0][row], y = plot.data[series][row];
    const away = Math.hypot(plot.valToPos(x, "x") - left, plot.valToPos(y, "y") - top);
    return [{at, x, y, away, words: words[row]}];
  });
  if (figure.scatter || figure.data.length > FEW) {
    rows = rows.sort((one, other) => one.away - other.away).slice(0, 1).filter(one => one.away < NEAR);
  }
  box.hidden = left < 0 || !rows.length;
  if (box.hidden) return;
  const ticks = figure.ticks || [];
  const x = value => ticks.length ? ticks[value] : `${shown(value)} ${figure.x || ""}`;
  const said = rows.map(one => `${one.words || figure.data[one.at].name}: ${shown(one.y)}`);
  box.replaceChildren(...[x(rows[0].x), ...said].map(text => {
    const line = document.createElement("div");
    line.textContent = text;
    return line;
  }));
  const right = left > plot.over.clientWidth / 2;
  box.style.left = right ? "" : `${left + 14}px`;
  box.style.right = right ? `${plot.over.clientWidth - left + 14}px` : "";
  box.style.top = `${Math.max(0, Math.min(top, plot.over.clientHeight - box.clientHeight))}px`;
}

// Return the places of marks on a logarithmic axis: fewer of each decade, the more decades there are.
function decades(_, axis, low, high) {
  const ratio = high / low, found = [];
  const steps = ratio > 1e4 ? [1] : ratio > 20 ? [1, 2, 5] : ratio > 6 ? [1, 2, 3, 5, 7] : [1, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9];
  for (let power = Math.floor(Math.log10(low)); 10 ** power <= high; power++) {
    found.push(...steps.map(step => Number(`${step}e${power}`)).filter(one => one >= low && one <= high));
  }
  return found;
}

function axes(figure) {
  const look = {stroke: colour("--soft"), font: "12px system-ui, sans-serif"};
  const grid = {stroke: colour("--line"), width: 1}, ticks = {show: false};
  const values = (_, splits) => splits.map(shown);
  const words = figure.ticks && figure.ticks.length ? figure.ticks : null;
  const x = {...look, grid, ticks, values, size: 26};
  // The title of a chart of a key is its axis's label too.
  if (!figure.ticks) Object.assign(x, {label: figure.x, labelSize: 18, labelFont: look.font});
  if (words) {
    x.splits = () => words.map((_, at) => at);
    x.values = () => words;
    x.grid = {show: false};
  }
  const log = {splits: decades, filter: (_, splits) => splits};
  const size = (_, texts) => 14 + 7 * Math.max(3, ...(texts || []).map(text => (text || "").length));
  if (figure.log_x) Object.assign(x, log);
  return [x, {...look, grid, ticks, values, size, ...(figure.log_y ? log : {})}];
}

function ranges(figure) {
  const words = figure.ticks && figure.ticks.length;
  const margin = (_, low, high) => low === high ? [low - 0.5, high + 0.5] : [low - 0.04 * (high - low), high + 0.04 * (high - low)];
  const x = {time: false, distr: figure.log_x ? 3 : 1};
  if (words) x.range = () => [-0.5, words - 0.5];
  else if (figure.scatter && figure.log_x) x.range = (_, low, high) => [low / 1.15, high * 1.15];
  else if (figure.scatter) x.range = margin;
  const tight = (_, low, high) => low == null ? [1, 10] : [low / 1.25, high * 1.25];
  return {x, y: figure.log_y ? {distr: 3, range: tight} : {distr: 1}};
}

function draw(box) {
  const key = box.closest("[data-key]").dataset.key;
  const figure = JSON.parse(box.parentElement.querySelector("script").textContent);
  const {table, words} = columns(figure), {series, bands, owner} = lines(figure);
  const hover = document.createElement("div");
  hover.className = "tip";
  hover.hidden = true;
  charts.get(box)?.destroy();
  const plot = new uPlot({
    width: box.clientWidth, height: box.clientHeight, series, bands, scales: ranges(figure), axes: axes(figure),
    legend: {show: false}, focus: {alpha: 0.25},
    cursor: {
      drag: {x: true, y: false}, dataIdx: (one, at, row) => at ? nearestRow(one, at, row) : row,
      focus: {prox: !figure.scatter && figure.data.length > FEW ? 24 : -1}, points: {show: true, size: 7},
    },
    hooks: {
      setCursor: [one => tip(one, figure, owner, words, hover)],
      setSelect: [one => {
        const {left, width} = one.select;
        if (width > 0) zooms.set(key, {min: one.posToVal(left, "x"), max: one.posToVal(left + width, "x")});
      }],
    },
  }, table, box);
  plot.over.append(hover);
  plot.over.addEventListener("dblclick", () => zooms.delete(key));
  if (zooms.has(key)) plot.setScale("x", zooms.get(key));
  charts.set(box, plot);
  legend(box, key, figure, plot, owner);
}

function legend(box, key, figure, plot, owner) {
  const groups = new Map();
  owner.forEach((at, series) => {
    if (at < 0 || !figure.data[at].x.length) return;
    const name = figure.data[at].group || figure.data[at].name;
    groups.set(name, [...(groups.get(name) || []), series]);
  });
  const hidden = hiddenGroups.get(key) || new Set();
  hiddenGroups.set(key, hidden);
  const show = (name, members) => plot.batch(() => members.forEach(one => plot.setSeries(one, {show: !hidden.has(name)})));
  box.parentElement.querySelector(".legend").replaceChildren(...(groups.size < 2 ? [] : [...groups].map(([name, members]) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = name;
    button.style.setProperty("--colour", figure.data[owner[members[0]]].color);
    button.setAttribute("aria-pressed", String(!hidden.has(name)));
    if (hidden.has(name)) show(name, members);
    button.onclick = () => {
      if (!hidden.delete(name)) hidden.add(name);
      button.setAttribute("aria-pressed", String(!hidden.has(name)));
      show(name, members);
    };
    return button;
  })));
}

// A chart is drawn as soon as it has a width, which it has not in a folded section.
const resized = new ResizeObserver(entries => {
  for (const {target} of entries) {
    const plot = charts.get(target), width = target.clientWidth;
    if (!width) continue;
    if (!plot) draw(target);
    else if (plot.width !== width) plot.setSize({width, height: target.clientHeight});
  }
});

function slide(box) {
  const frames = [...box.querySelectorAll(".frames img")], range = box.querySelector("input");
  if (!range) return;
  range.oninput = () => {
    frames.forEach((one, at) => { one.hidden = at !== Number(range.value); });
    box.querySelector("figcaption").textContent = frames[range.value].alt;
  };
}

function begin(root) {
  root.querySelectorAll(".chart").forEach(one => {
    if (one.clientWidth) draw(one);
    resized.observe(one);
  });
  root.querySelectorAll(".slider").forEach(slide);
  root.querySelectorAll("img").forEach(one => {
    // Small pictures are enlarged to crisp pixels, others smoothly.
    const look = () => one.classList.toggle("smooth", one.naturalWidth > 400);
    if (one.complete) look(); else one.addEventListener("load", look);
  });
}

begin(document);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const box of charts.keys()) draw(box);
});
