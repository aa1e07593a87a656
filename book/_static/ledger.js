/* Sorts and filters the ledger in the page, by mouse or keyboard, without a kernel and from a folder on disk. Without this script the whole table stands there. */
(function () {
  "use strict";
  const tools = document.querySelector(".ledger-tools");
  const table = tools && tools.parentElement.querySelector("table.ledger");
  if (!table) return;
  const body = table.tBodies[0];
  const rows = Array.from(body.rows);
  const heads = Array.from(table.tHead.rows[0].cells);
  const field = (name) => tools.querySelector(`[name="${name}"]`);
  const PAGE = 25;
  let falling = false;
  let limit = PAGE;

  const more = document.createElement("button");
  more.type = "button";
  more.className = "ledger-more";
  more.addEventListener("click", () => { limit += PAGE; show(); });
  table.after(more);

  function show() {
    const words = field("words").value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase() + " " + row.id;
      const fits =
        (!field("system").value || row.dataset.system === field("system").value) &&
        (!field("verdict").value || row.dataset.says === field("verdict").value) &&
        words.every((word) => text.includes(word));
      count += fits;
      row.hidden = !fits || count > limit;
    }
    const left = Math.max(0, count - limit);
    tools.querySelector("output").textContent = `${count} of ${rows.length} claims${left ? `, the first ${limit} shown` : ""}`;
    more.textContent = `show ${Math.min(PAGE, left)} more of ${left}`;
    more.hidden = !left;
  }

  function sort() {
    const key = field("order").value;
    const number = (row) => (row.dataset[key] === "" ? NaN : Number(row.dataset[key]));
    const order = (a, b) => {
      const [x, y] = [number(a), number(b)];
      if (isNaN(x) || isNaN(y)) return isNaN(x) - isNaN(y) || a.dataset.place - b.dataset.place; // unknown ones last
      return (falling ? y - x : x - y) || a.dataset.place - b.dataset.place;
    };
    body.append(...rows.sort(order));
    for (const head of heads) {
      if (head.dataset.key === key) head.setAttribute("aria-sort", falling ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    }
    show();
  }

  function filter(system, verdict) {
    field("system").value = system;
    field("verdict").value = verdict;
    field("words").value = "";
    limit = PAGE;
    show();
  }

  for (const head of heads) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      falling = field("order").value === head.dataset.key && !falling;
      field("order").value = head.dataset.key;
      sort();
    });
  }
  for (const name of ["system", "verdict", "words"]) field(name).addEventListener("input", () => { limit = PAGE; show(); });
  field("order").addEventListener("input", () => { falling = false; sort(); });
  field("clear").addEventListener("click", () => { filter("", ""); limit = rows.length; show(); });
  for (const link of document.querySelectorAll("[data-show-verdict]")) {
    link.addEventListener("click", () => filter(link.dataset.showSystem, link.dataset.showVerdict));
  }
  function reveal() { // a link to one claim shows it, whatever was filtered
    const row = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!row || !rows.includes(row)) return;
    if (row.hidden) field("clear").click();
    row.scrollIntoView();
  }
  window.addEventListener("hashchange", reveal);
  tools.hidden = false;
  sort();
  reveal();
})();
