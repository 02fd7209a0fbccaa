"use strict";

// Ask the page's server for what has changed, and put it in place; where the reader is stays.
const every = 1000 * Number(document.body.dataset.every), live = document.getElementById("live");

function say(text, state) {
  live.textContent = text;
  live.className = state;
}

function parsed(html) {
  const template = document.createElement("template");
  template.innerHTML = html;
  return template.content.firstElementChild;
}

function replace(old, fresh) {
  // A picture that is there already is not loaded anew, and what was chosen stays chosen.
  const pictures = new Map([...old.querySelectorAll("img")].map(one => [one.getAttribute("src"), one]));
  const before = old.querySelector("input[type=range]"), range = fresh.querySelector("input[type=range]");
  const at = one => Number(one.dataset.at);
  const chosen = before && before.value !== before.max ? at(old.querySelector(".frames img:not([hidden])")) : null;
  const scrolled = [...old.querySelectorAll(".scroll")].map(one => [one.scrollLeft, one.scrollTop]);
  fresh.querySelectorAll("img").forEach(one => {
    const same = pictures.get(one.getAttribute("src"));
    if (!same) return;
    same.hidden = one.hidden;
    same.alt = one.alt;
    one.replaceWith(same);
  });
  old.querySelectorAll(".chart").forEach(one => {
    resized.unobserve(one);
    charts.delete(one);
  });
  const focused = before && document.activeElement === before;
  old.replaceWith(fresh);
  begin(fresh);
  if (range && chosen !== null) {
    // The same picture or, since a long run shows some of its pictures, the last one before it.
    range.value = [...fresh.querySelectorAll(".frames img")].findLastIndex(one => at(one) <= chosen);
    range.oninput();
  }
  if (focused && range) range.focus({preventScroll: true});
  fresh.querySelectorAll(".scroll").forEach((one, at) => { if (scrolled[at]) one.scrollTo(...scrolled[at]); });
}

function update(state) {
  if (state.head) document.querySelector("header").innerHTML = state.head;
  const main = document.querySelector("main");
  let place = main.firstElementChild;
  for (const section of state.sections) {
    const known = document.getElementById(section.id);
    const shell = known || parsed(section.shell);
    if (shell !== place) main.insertBefore(shell, place);
    place = shell.nextElementSibling;
    shell.querySelector("h2, summary").textContent = section.title;
    const body = shell.querySelector(".body");
    const blocks = new Map([...body.children].map(one => [one.dataset.key, one]));
    let spot = body.firstElementChild;
    for (const one of section.blocks) {
      const old = blocks.get(one.key), fresh = one.html ? parsed(one.html) : old;
      blocks.delete(one.key);
      if (old && fresh !== old) {
        if (old === spot) spot = fresh;
        replace(old, fresh);
      }
      if (fresh !== spot) body.insertBefore(fresh, spot);
      if (!old) begin(fresh);
      spot = fresh.nextElementSibling;
    }
    blocks.forEach(one => one.remove());
  }
  while (place) {
    const next = place.nextElementSibling;
    place.remove();
    place = next;
  }
}

async function renew() {
  let wait = every;
  if (!document.hidden) {
    try {
      const have = [...document.querySelectorAll("[data-hash]")].map(one => one.dataset.hash);
      const answer = await fetch("state?have=" + have.join(","), {cache: "no-store"});
      if (!answer.ok) throw new Error(`the server answers ${answer.status}`);
      const state = await answer.json();
      if (state.sections) update(state);
      const at = new Date().toLocaleTimeString("en-GB");
      if (state.problem) say(`At ${at}: ${state.problem}`, "lost");
      else if (state.ended) return say("It has ended: this page is whole, and renews itself no more.", "soft");
      else say(`Renewed at ${at}`, "soft at-work");
    } catch (error) {
      say(`No answer since ${new Date().toLocaleTimeString("en-GB")}, asking again (${error.message})`, "lost");
      wait = Math.max(wait, 5000);
    }
  }
  setTimeout(renew, wait);
}

renew();
