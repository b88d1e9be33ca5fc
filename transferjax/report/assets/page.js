// What report.html does beyond being read; without this script everything is there, side by side.
"use strict";

function make(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children); // strings become text, never markup
  return node;
}

// Light, dark, or as the system has it; remembered where the browser allows it.
function themes(place) {
  const names = ["system", "light", "dark"];
  const button = make("button", { type: "button", class: "theme" });
  const show = (name) => {
    document.documentElement.style.colorScheme = name === "system" ? "" : name;
    button.textContent = `Theme: ${name}`;
    button.dataset.theme = name;
  };
  let kept = null;
  try { kept = localStorage.getItem("theme"); } catch { /* a browser that keeps nothing */ }
  show(names.includes(kept) ? kept : "system");
  button.addEventListener("click", () => {
    const next = names[(names.indexOf(button.dataset.theme) + 1) % names.length];
    show(next);
    try { localStorage.setItem("theme", next); } catch { /* likewise */ }
  });
  place.prepend(button);
}

// A head sorts by its column: largest first, smallest first, as it was. What is missing comes last.
function sortable(table) {
  const body = table.tBodies[0], rows = [...body.rows];
  const heads = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
  const value = (row, column) => {
    const cell = row.cells[column];
    return cell.dataset.value === undefined ? cell.textContent : parseFloat(cell.dataset.value);
  };
  const compare = (a, b) => {
    if (typeof a === "string") return a.localeCompare(b, undefined, { numeric: true });
    return Number.isNaN(a) ? (Number.isNaN(b) ? 0 : Infinity) : Number.isNaN(b) ? -Infinity : a - b;
  };
  heads.forEach((head, column) => {
    const text = head.textContent;
    const named = { type: "button", "aria-label": `Sort by ${head.dataset.name || text}` };
    head.replaceChildren(make("button", named, text));
    head.setAttribute("aria-sort", "none");
    const turns = column ? ["descending", "ascending", "none"] : ["ascending", "descending", "none"];
    head.firstChild.addEventListener("click", () => {
      const turn = turns[(turns.indexOf(head.getAttribute("aria-sort")) + 1) % turns.length];
      heads.forEach((other) => other.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", turn);
      const sign = turn === "descending" ? -1 : 1;
      const order = (a, b) => {
        const by = compare(value(a, column), value(b, column));
        return Math.abs(by) === Infinity ? by : sign * by;
      };
      body.append(...(turn === "none" ? rows : [...rows].sort(order)));
    });
  });
}

// Points say what they are under the pointer and on the keyboard; a mechanism can be picked out.
function plane(figure, tip) {
  const pick = (index) => {
    figure.querySelector(".marks").classList.toggle("chosen", index !== undefined);
    figure.querySelectorAll("[data-of]").forEach((one) => one.classList.toggle("on", one.dataset.of === index));
  };
  let pressed;
  const say = (point) => {
    tip.textContent = point.getAttribute("aria-label");
    tip.hidden = false;
    const box = point.getBoundingClientRect(), room = document.documentElement.clientWidth - tip.offsetWidth - 8;
    tip.style.left = `${window.scrollX + Math.max(8, Math.min(box.right + 6, room))}px`;
    tip.style.top = `${window.scrollY + box.bottom + 6}px`;
    pick(point.dataset.of);
  };
  const hush = () => { tip.hidden = true; pick(pressed); };
  figure.querySelectorAll(".legend button").forEach((button) => button.addEventListener("click", () => {
    pressed = pressed === button.dataset.of ? undefined : button.dataset.of;
    figure.querySelectorAll(".legend button").forEach((one) =>
      one.setAttribute("aria-pressed", String(one.dataset.of === pressed)));
    pick(pressed);
  }));
  figure.querySelectorAll(".panels svg").forEach((panel) => {
    const points = [...panel.querySelectorAll(".point")]; // one stop of the tab key; arrows go from point to point
    points.forEach((point, i) => {
      point.setAttribute("tabindex", i ? "-1" : "0");
      for (const event of ["pointerenter", "focus"]) point.addEventListener(event, () => say(point));
      for (const event of ["pointerleave", "blur"]) point.addEventListener(event, hush);
      point.addEventListener("keydown", (event) => {
        if (event.key === "Escape") return hush();
        const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
        if (!step) return;
        event.preventDefault();
        const next = points[(i + step + points.length) % points.length];
        point.setAttribute("tabindex", "-1");
        next.setAttribute("tabindex", "0");
        next.focus();
      });
    });
  });
}

// One image at a time, of one attack at a time; three panes that zoom and scroll together.
function viewer(figure) {
  const series = [...figure.querySelectorAll(".series")];
  const controls = make("div", { class: "controls" }), strip = make("div", { class: "strip" });
  const select = make("select", {}, ...series.map((one, i) => make("option", { value: i }, one.dataset.name)));
  const before = make("button", { type: "button" }, "Previous"), after = make("button", { type: "button" }, "Next");
  const where = make("output", {});
  const zoom = make("input", { type: "range", min: 1, max: 8, step: 0.5, value: 1 });
  const size = make("output", {}, "1×");
  if (series.length > 1) controls.append(make("label", {}, "Attack", select));
  controls.append(before, where, after, make("label", {}, "Zoom", zoom, size));
  figure.prepend(controls, strip);
  let image = 0;

  const examples = () => [...series[select.selectedIndex].querySelectorAll("article")];
  const enlarge = (to) => {
    zoom.value = to;
    size.textContent = `${zoom.value}×`;
    figure.style.setProperty("--zoom", zoom.value);
  };
  const show = (to) => {
    const all = examples();
    image = (to + all.length) % all.length;
    series.forEach((one, i) => { one.hidden = i !== select.selectedIndex; });
    all.forEach((one, i) => { one.hidden = i !== image; });
    where.textContent = `${image + 1} of ${all.length}`;
    [...strip.children].forEach((one, i) => one.setAttribute("aria-current", String(i === image)));
  };
  const choose = () => {
    strip.replaceChildren(...examples().map((one, i) => {
      const [clean] = one.querySelectorAll("img");
      const button = make("button", { type: "button", "aria-label": `Image ${i + 1}` },
        make("img", { src: clean.src, alt: "" }));
      button.addEventListener("click", () => show(i));
      return button;
    }));
    show(Math.min(image, examples().length - 1));
  };
  select.addEventListener("change", choose);
  before.addEventListener("click", () => show(image - 1));
  after.addEventListener("click", () => show(image + 1));
  zoom.addEventListener("input", () => enlarge(zoom.value));
  figure.addEventListener("keydown", (event) => {
    if (event.target.matches("select, input, .window") || event.ctrlKey || event.metaKey || event.altKey) return;
    const does = {
      ArrowLeft: () => show(image - 1), ArrowRight: () => show(image + 1),
      "+": () => enlarge(+zoom.value + 1), "-": () => enlarge(+zoom.value - 1),
    }[event.key];
    if (does) { event.preventDefault(); does(); }
  });
  figure.querySelectorAll("article").forEach((one) => {
    const windows = [...one.querySelectorAll(".window")];
    windows.forEach((pane) => {
      pane.addEventListener("scroll", () => windows.forEach((other) => {
        if (other.scrollLeft !== pane.scrollLeft) other.scrollLeft = pane.scrollLeft;
        if (other.scrollTop !== pane.scrollTop) other.scrollTop = pane.scrollTop;
      }));
      pane.addEventListener("click", (event) => {
        const box = pane.getBoundingClientRect(), was = +zoom.value;
        const x = (pane.scrollLeft + event.clientX - box.left) / was, y = (pane.scrollTop + event.clientY - box.top) / was;
        enlarge(was > 1 ? 1 : 4);
        pane.scrollTo(x * zoom.value - box.width / 2, y * zoom.value - box.height / 2);
      });
    });
  });
  choose();
}

themes(document.querySelector("main"));
document.querySelectorAll("table.sortable").forEach(sortable);
document.querySelectorAll(".viewer").forEach(viewer);
if (document.querySelector(".plane")) {
  const tip = make("div", { class: "tip", "aria-hidden": "true" });
  tip.hidden = true;
  document.body.append(tip);
  document.querySelectorAll(".plane").forEach((figure) => plane(figure, tip));
}
