// Blocks that scroll can be reached with the keyboard.
addEventListener("DOMContentLoaded", () => {
  for (const block of document.querySelectorAll(".highlight pre, .output pre, div.math, .bd-article table"))
    block.setAttribute("tabindex", "0");
  for (const cell of document.querySelectorAll(".bd-article td")) {
    cell.classList.toggle("long", cell.textContent.length > 40);
    cell.classList.toggle("number", /^[\s\d.±e%+-]+$/.test(cell.textContent));
  }
});

// A formula that is too wide for its column is set smaller, down to 70 %; what is wider still can be scrolled to.
function fitFormulas() {
  for (const formula of document.querySelectorAll('.bd-article mjx-container[display="true"]')) {
    formula.style.fontSize = "";
    for (let size = 95; size >= 70 && formula.scrollWidth > formula.clientWidth + 1; size -= 5) formula.style.fontSize = size + "%";
  }
}
addEventListener("load", () => window.MathJax?.startup?.promise?.then(fitFormulas));
addEventListener("resize", fitFormulas);

// A table that goes on beyond its edge fades out there; a head without a word is none.
function markTables() {
  for (const table of document.querySelectorAll(".bd-article table")) {
    const mark = () => table.classList.toggle("goes-on", table.scrollLeft + table.clientWidth < table.scrollWidth - 1);
    if (table.tHead && !table.tHead.textContent.trim()) table.tHead.hidden = true;
    table.onscroll = mark;
    mark();
  }
}
addEventListener("load", markTables);
addEventListener("resize", markTables);
