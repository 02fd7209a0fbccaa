"use strict";

// A chart as SVG: lines with bands, or points, over linear or logarithmic axes, with what is under the pointer in
// words. `charts.py` says what a figure has.

const FEW = 6, NEAR = 40, TOP = 8, RIGHT = 16, DOT = 7, MARKS = 22, LABEL = 18;

const shown = value => {
  if (value == null) return "";
  const size = Math.abs(value);
  if (size && (size < 1e-4 || size >= 1e7)) return value.toExponential(2);
  return value.toLocaleString("en", {maximumSignificantDigits: 5, useGrouping: size >= 1e4});
};

function element(name, attributes, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) if (value != null) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

// Return an axis from value `low` at pixel `from` to `high` at `to`.
function scale(low, high, from, to, log) {
  const forth = log ? Math.log : one => one, back = log ? Math.exp : one => one;
  const start = forth(low), ratio = (to - from) / (forth(high) - start);
  return {low, high, log, place: value => from + (forth(value) - start) * ratio, value: at => back(start + (at - from) / ratio)};
}

// Return the values of about `count` marks; on a logarithmic axis fewer of each decade, the more decades there are.
function marks({low, high, log}, count) {
  const found = [];
  if (log && high / low > 3) {
    const steps = high / low > 1e4 ? [1] : high / low > 20 ? [1, 2, 5] : [1, 1.5, 2, 3, 5, 7];
    for (let power = Math.floor(Math.log10(low)); 10 ** power <= high; power++) {
      found.push(...steps.map(step => Number(`${step}e${power}`)));
    }
  } else {
    const rough = (high - low) / Math.max(1, count), power = 10 ** Math.floor(Math.log10(rough));
    const step = power * [1, 2, 5, 10].find(one => one * power >= rough);
    for (let at = Math.ceil(low / step); at * step <= high; at++) found.push(Number((at * step).toPrecision(12)));
  }
  return found.filter(one => one >= low && one <= high);
}

// Return the consecutive points of a series that have both numbers.
function runs(x, y) {
  const found = [[]];
  x.forEach((at, index) => {
    if (at == null || y[index] == null) found.push([]);
    else found.at(-1).push([at, y[index]]);
  });
  return found.filter(run => run.length);
}

class Chart {
  // `figure` is drawn into `box`; `zoomed` is told of a range {min, max} of x that the reader takes, null for all.
  constructor(box, figure, zoomed) {
    Object.assign(this, {box, figure, zoomed, hidden: new Set(), range: null});
    this.tip = document.createElement("div");
    this.tip.className = "tip";
    this.tip.hidden = true;
  }

  // Show a range of x, or all of it for null.
  zoom(range) {
    this.range = range;
    this.draw();
  }

  // Show the series of the numbers `members`, or hide them.
  show(members, wanted) {
    members.forEach(one => wanted ? this.hidden.delete(one) : this.hidden.add(one));
    this.draw();
  }

  draw() {
    const {box, figure} = this, width = box.clientWidth, height = box.clientHeight;
    const words = figure.ticks && figure.ticks.length ? figure.ticks : null;
    const bottom = height - MARKS - (figure.ticks ? 0 : LABEL);
    const [left, right] = this.across(words), [low, high] = this.along(left, right);
    this.y = scale(low, high, bottom, TOP, figure.log_y);
    const rows = marks(this.y, (bottom - TOP) / 45);
    this.left = 14 + 7 * Math.max(3, ...rows.map(one => shown(one).length));
    this.x = scale(left, right, this.left, width - RIGHT, figure.log_x);
    const columns = words ? words.map((_, at) => at) : marks(this.x, (width - this.left) / 80);
    const grid = element("g", {class: "grid"}), text = element("g", {class: "marks"});
    for (const one of rows) {
      const at = this.y.place(one);
      grid.append(element("path", {d: `M${this.left} ${at}H${width - RIGHT}`}));
      text.append(element("text", {x: this.left - 6, y: at + 4, "text-anchor": "end"}, shown(one)));
    }
    for (const one of columns) {
      const at = this.x.place(one);
      if (!words) grid.append(element("path", {d: `M${at} ${TOP}V${bottom}`}));
      text.append(element("text", {x: at, y: bottom + 16, "text-anchor": "middle"}, words ? words[one] : shown(one)));
    }
    if (!figure.ticks && figure.x) {
      const middle = (this.left + width - RIGHT) / 2;
      text.append(element("text", {x: middle, y: height - 4, "text-anchor": "middle"}, figure.x));
    }
    // A viewport of its own cuts off what is outside the range, but for the other half of a dot on its edge.
    const area = {x: this.left - DOT, y: 0, width: Math.max(0, width - RIGHT - this.left + 2 * DOT), height: bottom};
    const inside = element("svg", {...area, viewBox: `${area.x} 0 ${area.width} ${area.height}`, preserveAspectRatio: "none"});
    this.series = figure.data.map((one, at) => this.hidden.has(at) ? element("g", {}) : this.drawn(one));
    this.near = element("g", {});
    this.drag = element("rect", {class: "drag", y: TOP, height: bottom - TOP, width: 0});
    inside.append(...this.series, this.near, this.drag);
    const svg = element("svg", {width, height, role: "img"}, grid, text, inside);
    this.listen(svg);
    this.tip.hidden = true;
    box.replaceChildren(svg, this.tip);
    this.width = width;
  }

  // Return the least and the greatest x that are shown.
  across(words) {
    const {figure, range} = this;
    if (range) return [range.min, range.max];
    if (words) return [-0.5, words.length - 0.5];
    const all = figure.data.flatMap(one => one.x).filter(one => one != null && (!figure.log_x || one > 0));
    const low = all.reduce((a, b) => Math.min(a, b), Infinity), high = all.reduce((a, b) => Math.max(a, b), -Infinity);
    if (!all.length) return figure.log_x ? [1, 10] : [0, 1];
    if (figure.log_x) return figure.scatter || low === high ? [low / 1.15, high * 1.15] : [low, high];
    if (low === high) return [low - 0.5, high + 0.5];
    const margin = figure.scatter ? 0.04 * (high - low) : 0;
    return [low - margin, high + margin];
  }

  // Return the ends of the y axis for what is shown between two x.
  along(left, right) {
    let low = Infinity, high = -Infinity;
    this.figure.data.forEach((one, at) => {
      if (this.hidden.has(at)) return;
      one.x.forEach((x, index) => {
        if (x < left || x > right) return;
        for (const values of [one.y, one.low, one.high]) {
          const value = values && values[index];
          if (value == null || (this.figure.log_y && value <= 0)) continue;
          low = Math.min(low, value);
          high = Math.max(high, value);
        }
      });
    });
    if (low > high) return this.figure.log_y ? [1, 10] : [0, 1];
    if (this.figure.log_y) return [low / 1.25, high * 1.25];
    const margin = low === high ? Math.abs(low) / 10 || 0.5 : 0.06 * (high - low);
    return [low - margin, high + margin];
  }

  drawn(one) {
    const group = element("g", {fill: "none", stroke: one.color, "stroke-width": one.width || 2, "stroke-linejoin": "round"});
    const at = (x, y) => `${this.x.place(x).toFixed(1)} ${this.y.place(y).toFixed(1)}`;
    const lines = runs(one.x, this.figure.log_y ? one.y.map(value => value > 0 ? value : null) : one.y);
    if (one.low) {
      const floor = this.y.low;
      const edges = one.x.map((x, index) => [x, one.low[index], one.high[index]]).filter(([x, y]) => x != null && y != null);
      const upper = edges.map(([x, , top]) => at(x, top)), lower = edges.map(([x, under]) => at(x, Math.max(under, floor)));
      const d = edges.length ? `M${[...upper, ...lower.reverse()].join("L")}Z` : "";
      group.append(element("path", {d, fill: one.color + "26", stroke: "none"}));
    }
    if (one.line !== false) {
      const d = lines.map(run => run.map(([x, y], index) => {
        if (!index) return `M${at(x, y)}`;
        return one.stepped ? `L${at(x, run[index - 1][1])}L${at(x, y)}` : `L${at(x, y)}`;
      }).join(""));
      group.append(element("path", {d: d.join(""), "stroke-dasharray": one.dash && one.dash.join(" ")}));
    }
    if (one.points) {
      // A line of no length with round ends is a dot.
      const d = lines.flat().map(([x, y]) => `M${at(x, y)}h0`).join("");
      group.append(element("path", {d, "stroke-width": one.points, "stroke-linecap": "round"}));
    }
    return group;
  }

  // Return the point of each series that is nearest to the pointer, if it is near.
  under(left, top) {
    const {figure} = this, single = figure.scatter || figure.data.length > FEW, found = [];
    figure.data.forEach((one, series) => {
      if (this.hidden.has(series)) return;
      let nearest = null;
      one.x.forEach((x, index) => {
        const y = one.y[index];
        if (x == null || y == null || (figure.log_y && y <= 0)) return;
        const across = this.x.place(x) - left, along = this.y.place(y) - top;
        const away = single ? Math.hypot(across, along) : Math.abs(across);
        if (away < NEAR && (!nearest || away < nearest.away)) nearest = {series, x, y, away, words: one.words && one.words[index]};
      });
      if (nearest) found.push(nearest);
    });
    return single ? found.sort((one, other) => one.away - other.away).slice(0, 1) : found;
  }

  point(left, top) {
    const {figure, tip} = this, found = this.under(left, top);
    this.near.replaceChildren(...found.map(one =>
      element("circle", {cx: this.x.place(one.x), cy: this.y.place(one.y), r: 4, fill: figure.data[one.series].color})));
    const few = figure.scatter || figure.data.length <= FEW || !found.length;
    this.series.forEach((group, at) => { group.style.opacity = few || at === found[0].series ? 1 : 0.25; });
    tip.hidden = !found.length;
    if (tip.hidden) return;
    const where = figure.ticks && figure.ticks.length ? figure.ticks[found[0].x] : `${shown(found[0].x)} ${figure.x || ""}`;
    const said = found.map(one => `${one.words || figure.data[one.series].name}: ${shown(one.y)}`);
    tip.replaceChildren(...[where, ...said].map(text => {
      const line = document.createElement("div");
      line.textContent = text;
      return line;
    }));
    const right = left > this.width / 2;
    tip.style.left = right ? "" : `${left + 14}px`;
    tip.style.right = right ? `${this.width - left + 14}px` : "";
    tip.style.top = `${Math.max(0, Math.min(top, this.box.clientHeight - tip.clientHeight))}px`;
  }

  // A drag takes a range of x; a double click shows all again.
  listen(svg) {
    let from = null;
    const at = event => {
      const {left, top} = svg.getBoundingClientRect();
      return [event.clientX - left, event.clientY - top];
    };
    const within = left => Math.max(this.left, Math.min(left, this.width - RIGHT));
    const take = range => {
      this.zoomed(range);
      this.zoom(range);
    };
    svg.onpointerdown = event => { if (event.button === 0) [from] = at(event); };
    svg.onpointermove = event => {
      const [left, top] = at(event);
      if (from === null || !event.buttons) return this.point(left, top);
      const ends = [within(from), within(left)].sort((one, other) => one - other);
      this.drag.setAttribute("x", ends[0]);
      this.drag.setAttribute("width", ends[1] - ends[0]);
    };
    svg.onpointerup = event => {
      const ends = from === null ? [] : [within(from), within(at(event)[0])].sort((one, other) => one - other);
      from = null;
      if (ends[1] - ends[0] > 5) take({min: this.x.value(ends[0]), max: this.x.value(ends[1])});
    };
    svg.onpointerleave = () => {
      from = null;
      this.drag.setAttribute("width", 0);
      this.point(-1e6, -1e6);
    };
    svg.ondblclick = () => take(null);
  }
}
