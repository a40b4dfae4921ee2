// Walks a deck under test and leaves a report in place of the page.
(async () => {
  const report = document.createElement("pre");
  report.id = "report";
  const tell = said => {
    report.textContent = JSON.stringify(said);
    document.documentElement.replaceChildren(document.createElement("body"));
    document.body.append(report);
  };
  const pause = ms => new Promise(done => setTimeout(done, ms));
  // The view that scrolls: how much wider than the window each slide is.
  if (new URLSearchParams(location.search).has("scroll")) {
    for (let i = 0; i < 600 && document.getElementById("reveal-css"); i++) await pause(50);
    await pause(50);
    return tell({over: [...leaves()].map(slide => slide.scrollWidth - slide.clientWidth)});
  }
  for (let i = 0; i < 600 && !(window.Reveal && Reveal.isReady()); i++) await pause(50);
  const ready = Boolean(window.Reveal && Reveal.isReady());
  // What the right arrow reaches, pressed from the first slide to the last (before the walk below: reveal remembers where it was).
  const reached = new Set();
  for (let i = 0, before = ""; ready && i < 2000; i++) {
    reached.add(Reveal.getCurrentSlide());
    const here = JSON.stringify(Reveal.getIndices());
    if (here === before) break;
    before = here;
    Reveal.triggerKey(39);
  }
  const slides = [];
  for (const slide of ready ? Reveal.getSlides() : []) {
    const {h, v} = Reveal.getIndices(slide);
    const fragments = slide.querySelectorAll(".fragment");
    Reveal.slide(h, v, fragments.length - 1);
    await pause(1);
    const shown = selector => [...slide.querySelectorAll(selector)].filter(e => !e.closest("aside.notes"));
    const text = document.createTreeWalker(slide, NodeFilter.SHOW_TEXT);
    let raw = "";
    while (!raw && text.nextNode())
      if (/\$|\\\(|\\\[/.test(text.currentNode.data) && !text.currentNode.parentElement.closest("pre,code,script,style,mjx-container"))
        raw = text.currentNode.data.trim().slice(0, 60);
    // Prose that the room sees: no headings, tables, code or formulas, and no exercises, which are worked on.
    let words = 0;
    const read = document.createTreeWalker(slide, NodeFilter.SHOW_TEXT);
    while (!slide.querySelector("h1, .celltag_exercise") && read.nextNode()) {
      const place = read.currentNode.parentElement;
      if (place.closest("p, li") && !place.closest("table, pre, code, aside, mjx-container, .running, .onward") && place.checkVisibility() && !place.closest(".frame:has(~ .frame)"))
        words += (read.currentNode.data.match(/[A-Za-z0-9][\w'’-]*/g) ?? []).length;
    }
    // How large a figure stands, in units of the size it was drawn in, in which its words have 18 px.
    const wide = image => +image.dataset.width || image.naturalWidth;
    const figures = [...slide.querySelectorAll(".figure > img")]
      .filter(image => image.clientWidth < 1170)  // it cannot be larger
      .map(image => Math.min(image.clientWidth / wide(image), image.clientHeight * image.naturalWidth / image.naturalHeight / wide(image)));
    // How far a displayed formula, or its number, reaches over the margin.
    const scale = Reveal.getScale(), edge = slide.getBoundingClientRect().right - 52 * scale;
    const beyond = shown('mjx-container[display="true"]').flatMap(f => [f, ...f.querySelectorAll("svg, g[data-mml-node]")])
      .map(part => Math.round((part.getBoundingClientRect().right - edge) / scale));
    slides.push({
      words, figures, beyond: Math.max(0, ...beyond),
      height: slide.scrollHeight, width: slide.scrollWidth, visible: slide.offsetParent !== null,
      hidden: [...fragments].filter(f => !f.classList.contains("visible")).length,
      formulas: shown("mjx-container").length, raw,
      errors: [...new Set(shown("[data-mjx-error]").map(e => e.getAttribute("data-mjx-error")))],
    });
  }
  const late = document.querySelectorAll(".fragment aside.notes").length;
  const requests = performance.getEntriesByType("resource").map(r => r.name).filter(n => !/^(data|blob):/.test(n));
  tell({ready, slides, reached: reached.size, late, problems, requests});
})();
