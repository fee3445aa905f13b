"use strict";
// Draws each figure from its numbers, in place of its picture: hover for values, click a line's name to hide it, drag
// to zoom. Sorts tables by a column. Names only ever become text nodes.
const NUM_COLORS = 9, LEFT = 54, RIGHT = 14, TOP = 34, MARKERS = ["M-3,0a3,3 0 1,0 6,0a3,3 0 1,0-6,0",
  "M-3-3h6v6h-6z", "M0-4l4,4-4,4-4-4z", "M0-4l4,7h-8z", "M0,4l4-7h-8z"];
const DASHES = JSON.parse(document.body.dataset.looks), charts = [];
const shows = value => value == null ? "n/a" : Number.isInteger(value) || Math.abs(value) >= 1e4
  ? Math.round(value).toLocaleString("en") : String(+value.toPrecision(4));

function add(parent, tag, attributes = {}, text = null) {
  const space = tag === "svg" || parent.namespaceURI.endsWith("svg") ? "http://www.w3.org/2000/svg" : parent.namespaceURI;
  const part = document.createElementNS(space, tag);
  for (const [name, value] of Object.entries(attributes)) part.setAttribute(name, value);
  if (text !== null) part.textContent = text;
  return parent.appendChild(part);
}

function scale(low, high, start, end, isLog) {
  const of = isLog ? Math.log : value => value, back = isLog ? Math.exp : value => value, span = of(high) - of(low) || 1;
  const at = value => start + (end - start) * (of(value) - of(low)) / span;
  at.back = place => back(of(low) + span * (place - start) / (end - start));
  at.ticks = (number, isWhole) => {
    if (isLog && high / low > 4) {
      const all = [];
      for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) for (const digit of [1, 2, 5])
        all.push(digit * 10 ** power);
      return all.filter(value => value >= low * 0.999 && value <= high * 1.001);
    }
    const rough = (high - low || 1) / number, power = 10 ** Math.floor(Math.log10(rough));
    const step = Math.max(isWhole ? 1 : 0, [1, 2, 2.5, 5, 10].find(digit => digit * power >= rough) * power), first = Math.ceil(low / step);
    return Array.from({length: Math.max(0, Math.floor(high / step + 1e-9) - first + 1)}, (_, at) => +((first + at) * step).toPrecision(12));
  };
  return at;
}

function smooth(values) {  // as style.smoothed
  const half = values.length > 30 ? Math.floor(values.length / 40) : 0;
  return values.map((value, at) => {
    const near = values.slice(Math.max(0, at - half), at + half + 1).filter(each => each != null);
    return half && near.length ? near.reduce((sum, each) => sum + each, 0) / near.length : value;
  });
}

function chart(figure) {
  const data = JSON.parse(figure.dataset.chart), picture = figure.querySelector("img"), hidden = new Set();
  const box = add(figure, "div", {class: "chart", tabindex: 0, role: "img", "aria-label": picture.alt});
  picture.replaceWith(box);
  const canvas = add(box, "svg"), tip = add(box, "div", {class: "tip", hidden: ""});
  const names = add(figure, "div", {class: "names"}), whole = add(names, "button", {type: "button", hidden: ""}, "whole range");
  box.after(names);
  const HEIGHT = data.plots.length > 2 ? 110 : 180, isStack = data.kind === "stack", isPoints = data.kind === "points";
  const color = look => isPoints ? "var(--mark)" : `var(--c${look % NUM_COLORS})`;
  let zoom = null, panels = [], current = null, begin = null, drawn = 0;
  const known = new Map(data.plots.flatMap(plot => plot.lines).map(line => [line.text, line.look]));
  for (const [text, look] of known) {
    const button = add(names, "button", {type: "button", "aria-pressed": true}), sample = add(button, "svg", {width: 26, height: 10});
    if (isStack || isPoints) add(sample, "rect", {x: 6, width: 14, height: 10, style: `fill:${color(look)};opacity:.8`});
    else stroke(sample, "M0,5h26", look), add(sample, "path", {d: MARKERS[look % 5], transform: "translate(13 5)", style: `fill:${color(look)}`});
    add(button, "span", {}, text);
    button.onclick = () => {
      hidden.delete(text) || hidden.add(text);
      button.setAttribute("aria-pressed", !hidden.has(text));
      draw();
    };
  }
  whole.onclick = () => show(null);
  const show = range => { zoom = range; whole.hidden = !range; draw(); };

  function stroke(parent, d, look, width = 2, opacity = 1) {
    const dashes = DASHES[look].map(length => length * width).join(" ");
    return add(parent, "path", {d, style: `fill:none;stroke:${color(look)};stroke-width:${width};opacity:${opacity};stroke-dasharray:${dashes || "none"}`});
  }

  function draw() {
    const width = box.clientWidth;
    if (!width) return;
    drawn = width;
    canvas.replaceChildren();
    tip.hidden = true;
    const all = data.plots.flatMap(plot => plot.lines).filter(line => !hidden.has(line.text));
    const step = isStack && data.plots[0].lines[0].x.length > 1 ? data.plots[0].lines[0].x[1] - data.plots[0].lines[0].x[0] : isStack;
    const ends = all.flatMap(line => line.x).reduce(([low, high], x) => [Math.min(low, x), Math.max(high, x)], [Infinity, -Infinity]);
    const [low, high] = zoom || (all.length ? [ends[0] - step / 2, ends[1] + step / 2] : [0, 1]);
    const x = scale(low, high, LEFT, width - RIGHT, isPoints);
    const bottom = data.plots.length * (HEIGHT + TOP), inside = value => value >= low && value <= high;
    canvas.setAttribute("width", width);
    canvas.setAttribute("height", bottom + 40);
    panels = data.plots.map((plot, at) => {
      const top = at * (HEIGHT + TOP) + TOP, lines = plot.lines.filter(line => !hidden.has(line.text));
      let base = lines[0] ? lines[0].x.map(() => 0) : [];
      for (const line of lines) {  // what is drawn: of a stack the sums
        line.from = base;
        line.to = isStack ? base = base.map((sum, at) => sum + line.mean[at]) : line.mean;
      }
      const near = lines.flatMap(line => [line.to, line.low || [], line.high || []].flatMap(values =>
        values.filter((value, at) => value != null && inside(line.x[at]))));
      if (at === 0 && data.level != null && near.length) near.push(data.level);
      let floor = near.length ? near.reduce((a, b) => Math.min(a, b)) : 0, roof = near.length ? near.reduce((a, b) => Math.max(a, b)) : 1;
      const isLog = plot.y === "perplexity" && floor > 0, space = isLog ? 0 : (roof - floor || Math.abs(roof) || 1) * 0.06;
      [floor, roof] = isStack ? [0, roof * 1.03] : isLog ? [floor / 1.08, roof * 1.08] : [floor - space, roof + space];
      if (plot.y.startsWith("share") && !zoom) [floor, roof] = [-0.03, 1.03];
      const y = scale(floor, roof, top + HEIGHT, top, isLog), room = [LEFT - 5, top - 5, width - LEFT - RIGHT + 10, HEIGHT + 10];
      const clip = add(canvas, "svg", {x: room[0], y: room[1], width: room[2], height: room[3], viewBox: room.join(" ")});
      add(canvas, "text", {x: 0, y: top - 10, class: "head"}, plot.heading && plot.heading !== plot.y ? `${plot.heading} (${plot.y})` : plot.y);
      for (const tick of y.ticks(4)) {
        add(clip, "path", {d: `M${LEFT},${y(tick)}H${width}`, class: "grid"});
        add(canvas, "text", {x: LEFT - 6, y: y(tick) + 4, "text-anchor": "end"}, shows(tick));
      }
      add(canvas, "path", {d: `M${LEFT},${top + HEIGHT}H${width - RIGHT}`, class: "axis"});
      if (at === 0 && data.level != null) add(clip, "path", {d: `M${LEFT},${y(data.level)}H${width}`, class: "level"});
      for (const line of lines) paint(clip, line, x, y, step);
      return {plot, lines, top, y};
    });
    for (const tick of x.ticks(width < 420 ? 4 : 7, !isPoints).filter(inside))
      add(canvas, "text", {x: x(tick), y: bottom + 16, "text-anchor": "middle"}, shows(tick));
    add(canvas, "text", {x: (LEFT + width - RIGHT) / 2, y: bottom + 34, "text-anchor": "middle"}, data.x);
    panels.x = x;
    panels.over = add(canvas, "g");
  }

  function paint(parent, line, x, y, step) {
    const path = values => values.map((value, at) => value == null ? "" : `${at && values[at - 1] != null ? "L" : "M"}${x(line.x[at]).toFixed(1)},${y(value).toFixed(1)}`).join("");
    if (isPoints) return add(parent, "path", {d: line.x.map((each, at) => `M${x(each).toFixed(1)},${y(line.mean[at]).toFixed(1)}h0`).join(""), class: "points"});
    if (isStack) return add(parent, "path", {style: `fill:${color(line.look)};opacity:${line.look % 18 < 9 ? 0.85 : 0.5}`, class: "bar", d: line.x.map((each, at) =>
      `M${x(each - step / 2).toFixed(1)},${y(line.from[at]).toFixed(1)}V${y(line.to[at]).toFixed(1)}H${x(each + step / 2).toFixed(1)}V${y(line.from[at]).toFixed(1)}z`).join("")});
    if (line.low) {
      const points = line.x.map((each, at) => at), [lows, highs] = [smooth(line.low), smooth(line.high)];
      const edge = (at, values) => `${x(line.x[at]).toFixed(1)},${y(values[at]).toFixed(1)}`;
      add(parent, "path", {style: `fill:${color(line.look)};opacity:.14`, d: `M${[...points.map(at => edge(at, highs)), ...points.reverse().map(at => edge(at, lows))].join("L")}z`});
    }
    const mean = smooth(line.mean), every = Math.max(1, Math.floor(mean.length / 10));
    if (mean.length > 30) stroke(parent, path(line.mean), 0, 0.7, 0.35).style.stroke = color(line.look);
    stroke(parent, path(mean), line.look);
    line.x.forEach((each, at) => at % every === line.look % every && mean[at] != null &&
      add(parent, "path", {d: MARKERS[line.look % 5], transform: `translate(${x(each).toFixed(1)} ${y(mean[at]).toFixed(1)})`, style: `fill:${color(line.look)}`}));
  }

  function point(place, height) {  // shows the values nearest to a place
    if (!panels.x) return;
    const {x, over} = panels, panel = panels.findLast(each => height >= each.top - TOP) || panels[0];
    const distance = (line, at) => isPoints ? Math.hypot(x(line.x[at]) - place, panel.y(line.mean[at]) - height) : Math.abs(x(line.x[at]) - place);
    const found = panel.lines.filter(line => line.x.length).map(line => ({line, at: line.x.reduce((best, _, at) => line.mean[at] != null && distance(line, at) < distance(line, best) ? at : best, 0)}));
    over.replaceChildren();
    tip.replaceChildren();
    tip.hidden = !found.length;
    if (!found.length) return;
    const first = found.reduce((best, each) => distance(each.line, each.at) < distance(best.line, best.at) ? each : best);
    current = first.line.x[first.at];
    const last = panels[panels.length - 1].top + HEIGHT;
    if (!isPoints) add(over, "path", {d: `M${x(current)},${panels[0].top}V${last}`, class: "cross"});
    add(tip, "div", {class: "small"}, `${data.x} ${shows(current)}`);
    for (const {line, at} of isStack ? found.reverse() : found) {
      const row = add(tip, "div"), place = line.x[at] === current ? "" : ` at ${shows(line.x[at])}`;
      if (!isStack) add(over, "circle", {cx: x(line.x[at]), cy: panel.y(line.mean[at]), r: 4.5, style: `fill:var(--back);stroke:${color(line.look)};stroke-width:2`});
      add(row, "i", {style: `background:${color(line.look)}`});
      add(row, "span", {}, line.text);
      add(row, "b", {}, shows(line.mean[at]) + (line.low ? ` [${shows(line.low[at])}, ${shows(line.high[at])}]` : "") + place);
    }
    const goesLeft = x(current) > box.clientWidth / 2;
    tip.style.cssText = `top:${panel.top}px;${goesLeft ? `right:${box.clientWidth - x(current) + 12}px` : `left:${x(current) + 12}px`}`;
  }
  const places = event => { const frame = box.getBoundingClientRect(); return [event.clientX - frame.left, event.clientY - frame.top]; };
  const leave = () => { tip.hidden = true; if (panels.over) panels.over.replaceChildren(); begin = null; };
  box.onpointermove = event => {
    const [place, height] = places(event);
    point(place, height);
    if (begin !== null && event.pointerType === "mouse") add(panels.over, "rect", {class: "range", x: Math.min(begin, place), width: Math.abs(place - begin), y: TOP, height: panels[panels.length - 1].top + HEIGHT - TOP});
  };
  box.onpointerdown = event => { begin = places(event)[0]; if (event.pointerType !== "mouse") point(...places(event)); };
  box.onpointerup = event => {
    const place = places(event)[0], range = begin === null ? [] : [begin, place].sort((a, b) => a - b).map(panels.x.back);
    if (event.pointerType === "mouse" && begin !== null && Math.abs(place - begin) > 8) show(range);
    begin = null;
  };
  box.onpointerleave = leave;
  box.ondblclick = event => {
    const {x} = panels, [place] = places(event), part = (box.clientWidth - LEFT - RIGHT) / 6;
    show(zoom ? null : [x.back(Math.max(LEFT, place - part)), x.back(Math.min(box.clientWidth - RIGHT, place + part))]);
  };
  box.onkeydown = event => {
    const way = {ArrowLeft: -1, ArrowRight: 1}[event.key];
    if (event.key === "Escape") leave(), show(null);
    if (!way || !panels.length) return;
    const xs = [...new Set(panels[0].lines.flatMap(line => line.x))].sort((a, b) => a - b), at = xs.indexOf(current);
    event.preventDefault();
    point(panels.x(xs[Math.max(0, Math.min(xs.length - 1, at < 0 ? 0 : at + way))]), panels[0].top);
  };
  new ResizeObserver(() => box.clientWidth === drawn || draw()).observe(box);
  charts.push(() => zoom || hidden.size || !tip.hidden);
}

function sortable(table) {
  const number = text => /^[-+]?[\d.]/.test(text) ? parseFloat(text.replaceAll(",", "")) : NaN;
  [...table.tHead.rows[0].cells].forEach((head, at) => {
    const button = add(head, "button", {type: "button"}, head.textContent);
    head.firstChild.remove();
    button.onclick = () => {
      const way = head.ariaSort === "descending" ? "ascending" : "descending", sign = way === "ascending" ? 1 : -1;
      for (const other of table.tHead.rows[0].cells) other.ariaSort = null;
      head.ariaSort = way;
      const rows = [...table.tBodies[0].rows].map(row => [row, row.cells[at].textContent, number(row.cells[at].textContent)]);
      rows.sort(([, a, x], [, b, y]) => isNaN(x) - isNaN(y) || sign * (x - y) || (isNaN(x) ? -sign * a.localeCompare(b) : 0));
      table.tBodies[0].append(...rows.map(([row]) => row));
    };
  });
}

function tabs(figures) {  // shows one of several figures at a time
  const choose = chosen => figures.forEach(figure => { figure.hidden = figure !== chosen; });
  for (const figure of figures) {
    const names = add(figure, "nav", {class: "tabs"});
    figure.querySelector("h3").after(names);
    for (const other of figures)
      add(names, "button", {type: "button", "aria-pressed": other === figure}, other.dataset.tab).onclick = () => choose(other);
  }
  if (figures.length) choose(figures[0]);
}

document.querySelectorAll("figure[data-chart]").forEach(chart);
tabs([...document.querySelectorAll("figure[data-tab]")]);
document.querySelectorAll("table.sortable").forEach(sortable);
const refresh = Number(document.body.dataset.refresh);  // not while someone looks into a figure
if (refresh) setInterval(() => charts.some(isBusy => isBusy()) || location.reload(), 1000 * refresh);
