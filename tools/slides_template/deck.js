// Maths first, then pictures, then the deck: reveal measures slides once, so their contents must have their final size.
window.MathJax = {
  tex: {
    inlineMath: [["$", "$"], ["\\(", "\\)"]],
    displayMath: [["$$", "$$"], ["\\[", "\\]"]],
    processEscapes: true,
    tags: "ams",
    packages: {"[-]": ["noerrors", "noundefined"]},  // a typing error must show
  },
  svg: {fontCache: "local"},  // the speaker view copies single formulas into another window
  options: {enableMenu: false, skipHtmlTags: ["script", "style", "textarea", "pre", "code"]},
  startup: {pageReady: () => MathJax.startup.defaultPageReady().finally(loaded).finally(openDeck)},
};

const loaded = () => document.readyState === "complete" || new Promise(done => addEventListener("load", done));

// Pictures give way: where a slide is too high, its figures shrink together, down to 240 px.
function fitFigures() {
  document.body.classList.add("measuring");
  for (const slide of document.querySelectorAll("section:not(:has(section))")) {
    const images = [...slide.querySelectorAll(".figure img")];
    const share = images.length && Math.ceil((slide.scrollHeight - 700) / images.length);
    if (share > 0)
      for (const image of images) image.style.maxHeight = Math.max(240, image.offsetHeight - share) + "px";
  }
  document.body.classList.remove("measuring");
}

function openDeck() {
  // Headless printing may never draw a frame, and reveal lays out its pages in frames.
  if (/print-pdf/.test(location.search)) window.requestAnimationFrame = done => setTimeout(done, 0);
  // The speaker view has no style for the copy of a formula that screen readers read.
  document.querySelectorAll("aside.notes mjx-assistive-mml").forEach(copy => copy.remove());
  fitFigures();
  Reveal.initialize({
    width: 1280, height: 720, margin: 0, center: false, hash: true, slideNumber: "c/t", transition: "none",
    pdfSeparateFragments: false, pdfMaxPagesPerSlide: 1, plugins: [RevealNotes],
  });
}
