// Blocks that scroll can be reached with the keyboard.
addEventListener("DOMContentLoaded", () => {
  for (const block of document.querySelectorAll(".highlight pre, .output pre, div.math, .bd-article table"))
    block.setAttribute("tabindex", "0");
});
