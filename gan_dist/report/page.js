"use strict";

// What the reader has chosen, by the key of a block: it stays when the block is renewed.
const zooms = new Map(), hiddenGroups = new Map();
const charts = new Map();

function draw(box) {
  const {key} = box.closest("[data-key]").dataset;
  const figure = JSON.parse(box.parentElement.querySelector("script").textContent);
  const plot = new Chart(box, figure, range => range ? zooms.set(key, range) : zooms.delete(key));
  plot.zoom(zooms.get(key) || null);
  charts.set(box, plot);
  legend(box, key, plot);
}

function legend(box, key, plot) {
  const {data} = plot.figure, groups = new Map();
  data.forEach((one, at) => {
    if (one.x.length) groups.set(one.group || one.name, [...(groups.get(one.group || one.name) || []), at]);
  });
  const hidden = hiddenGroups.get(key) || new Set();
  hiddenGroups.set(key, hidden);
  box.parentElement.querySelector(".legend").replaceChildren(...(groups.size < 2 ? [] : [...groups].map(([name, members]) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = name;
    button.style.setProperty("--colour", data[members[0]].color);
    button.setAttribute("aria-pressed", String(!hidden.has(name)));
    if (hidden.has(name)) plot.show(members, false);
    button.onclick = () => {
      if (!hidden.delete(name)) hidden.add(name);
      button.setAttribute("aria-pressed", String(!hidden.has(name)));
      plot.show(members, !hidden.has(name));
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
    else if (plot.width !== width) plot.draw();
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
