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

// How the deck is shown: ?dark, ?4:3, ?scroll (and on a narrow screen), ?handout (slides and notes, to be printed), ?print-pdf.
const asked = new URLSearchParams(location.search);
const printing = asked.has("print-pdf"), handout = asked.has("handout");
const narrow = innerWidth < 600 && !printing && !asked.has("receiver");  // the speaker window shows narrow slides, too
const scrolling = handout || narrow || asked.has("scroll");
const HEIGHT = asked.has("4:3") ? 960 : 720;
document.documentElement.classList.toggle("dark", asked.has("dark"));
document.documentElement.classList.toggle("scroll", scrolling);
document.documentElement.classList.toggle("handout", handout);
document.documentElement.classList.toggle("receiver", asked.has("receiver"));
document.documentElement.style.setProperty("--height", HEIGHT + "px");

const loaded = () => document.readyState === "complete" || new Promise(done => addEventListener("load", done));

// A slide: a section that holds no others.
const leaves = () => document.querySelectorAll(".slides section:not(:has(section))");

// Where a slide is too high, its figures shrink together, as far as their words can be read from the back row: down to
// the size they were drawn in. Then the text gives way, then the figures again, down to 240 px.
function shrink(slide, least) {
  const images = [...slide.querySelectorAll(".figure > img, .strip img")];
  const standing = new Set(images.map(image => image.closest(".film") ?? image)).size;  // frames stand on each other
  const share = standing && Math.ceil((slide.scrollHeight - HEIGHT + 6) / standing);
  if (share > 0)
    for (const image of images) image.style.maxHeight = Math.max(Math.min(image.offsetHeight, least(image)), image.offsetHeight - share) + "px";
}

// How high a figure was drawn; it may be stored in a finer resolution.
const drawn = image => image.naturalHeight * (+image.dataset.width || image.naturalWidth) / image.naturalWidth;

// A formula that is wider than its place is set smaller, down to 60 %.
function fitFormulas(slide) {
  for (const formula of slide.querySelectorAll('mjx-container[display="true"]')) {
    if (formula.closest("aside.notes, .beside")) continue;
    formula.style.fontSize = "";
    for (let size = 96; size >= 60 && tooWide(formula); size -= 4) formula.style.fontSize = size + "%";
  }
}

// Whether a displayed formula, its number too, needs more than the width of the text around it.
function tooWide(formula) {
  const place = formula.parentElement.getBoundingClientRect();
  return [formula, ...formula.querySelectorAll("svg, g[data-mml-node]")].some(
    part => part.getBoundingClientRect().right > place.right + 1 || part.getBoundingClientRect().left < place.left - 1);
}

function fit() {
  document.body.classList.add("measuring");
  leaves().forEach(beside);
  leaves().forEach(fitFormulas);
  for (const slide of leaves()) {
    const over = slide.scrollHeight - HEIGHT + 20;
    for (const part of over > 0 ? slide.querySelectorAll(".part") : []) {
      const share = Math.max(0.5, 1 - over / part.offsetHeight);  // a film's frames stand on each other
      part.style.width = share * part.offsetWidth + "px";
    }
    shrink(slide, drawn);
  }
  // What is still too high or too wide is set smaller, in two sizes; the smaller one can be read from the back row, too.
  for (const size of ["tight", "tighter"])
    for (const slide of leaves())
      if (slide.scrollHeight > HEIGHT - 4 || slide.scrollWidth > 1280) slide.classList.add(size);
  for (const slide of leaves()) shrink(slide, () => 240);
  // An image is as wide as what it shows: on a dark wall it is a white card.
  for (const image of document.querySelectorAll(".slides .figure > img"))
    if (image.naturalHeight) image.style.width = Math.min(image.offsetWidth, image.offsetHeight * image.naturalWidth / image.naturalHeight) + "px";
  document.body.classList.remove("measuring");
}

// Formulas on the left, the code that computes them on the right, where both can be read so from the back row; else the
// code below them in its own lines; where that is too high, beside them after all, smaller.
function beside(slide) {
  const code = slide.querySelector(".jp-CodeCell.celltag_beside");
  if (!code) return;
  const right = code.closest(".fragment") ?? code;
  const left = document.createElement("div"), both = document.createElement("div");
  const before = [...slide.children].slice(0, [...slide.children].indexOf(right));
  const narrow = code.querySelector(".highlight"), wide = code.querySelector("template.wide").content.querySelector(".highlight").cloneNode(true);
  const heading = before.map(part => part.querySelector("h1, h2, h3, h4")).find(found => found), place = heading?.parentElement;
  both.className = "beside";
  const split = () => {
    slide.insertBefore(both, right);
    left.append(...before);
    both.append(left, right);
    if (heading) slide.prepend(heading);  // it stands over both
    wide.replaceWith(narrow);
  };
  const stack = () => {
    both.replaceWith(...before, right);
    if (heading) place.prepend(heading);
    narrow.replaceWith(wide);
    fitFormulas(slide);
  };
  const fits = () => slide.scrollHeight <= HEIGHT - 4;
  const stands = size => {
    left.style.fontSize = size;
    return fits() && ![...left.querySelectorAll('mjx-container[display="true"]')].some(tooWide);
  };
  split();
  if (stands("") || stands("22px")) return;
  stack();
  if (fits()) return;
  for (const formula of left.querySelectorAll("mjx-container")) formula.style.fontSize = "";
  split();
  if (!stands("20px") && !stands("18px")) stack();
}

// Three stills in a strip: one after the other, large; at last all three beside each other, to compare.
function film() {
  for (const figure of document.querySelectorAll(".celltag_stills .figure")) {
    const strip = figure.querySelector("img");
    if (strip.naturalWidth < 2.2 * strip.naturalHeight) continue;  // rows of text stand in a column, wide already
    const share = strip.naturalWidth / 3 / strip.naturalHeight;
    const frames = document.createElement("div");
    frames.className = "film";
    for (let k = 0; k < 3; k++) {
      const frame = document.createElement("div"), part = document.createElement("div"), picture = strip.cloneNode();
      frame.className = k ? "frame fragment" : "frame";
      part.className = "part";
      part.style.cssText = `width: ${Math.min(1000, 500 * share)}px; aspect-ratio: ${share}`;
      picture.style.cssText = `left: ${-100 * k}%`;
      if (k) picture.alt = "";  // said once
      part.append(picture);
      frame.append(part);
      frames.append(frame);
    }
    const all = document.createElement("div");
    all.className = "frame strip fragment";
    figure.replaceWith(frames);
    all.append(strip);
    frames.append(all);
  }
}

// nbconvert puts notes into the fragment before them, where the speaker sees them only at that fragment.
function hoistNotes() {
  for (const slide of leaves()) {
    const [first, ...others] = slide.querySelectorAll("aside.notes");
    if (!first) continue;
    for (const note of others) {
      first.append(...note.childNodes);
      note.remove();
    }
    slide.append(first);
  }
}

// A full stop stays with the formula before it.
function keepStops() {
  for (const formula of document.querySelectorAll('.slides mjx-container:not([display="true"])')) {
    const after = formula.nextSibling, stop = after?.nodeType === 3 && after.data.match(/^[.,;:!?)\]]+/);
    if (!stop) continue;
    const both = document.createElement("span");
    both.className = "kept";
    formula.replaceWith(both);
    both.append(formula, stop[0]);
    after.data = after.data.slice(stop[0].length);
  }
}

// What is said and not shown stands in the notes.
function noteWhatIsSaid() {
  for (const slide of leaves()) {
    const said = [...slide.querySelectorAll(".said")].filter(part => !part.closest("aside.notes"));
    if (!said.length) continue;
    let notes = slide.querySelector(":scope > aside.notes");
    if (!notes) {
      notes = document.createElement("aside");
      notes.className = "notes";
      slide.append(notes);
    }
    const line = document.createElement("p"), title = document.createElement("em");
    title.textContent = "Said, not shown:";
    line.append(title);
    for (const part of said) {
      line.append(" ", ...part.cloneNode(true).childNodes);
      const block = part.closest("p, li");
      const stands = block && [...block.childNodes].some(node => !node.classList?.contains("said") && (node.textContent.trim() || node.nodeType === 1 && node.querySelector("svg, img")));
      if (block && !stands) block.classList.add("said");
    }
    notes.append(line);
  }
  for (const list of document.querySelectorAll(".slides ul, .slides ol"))
    if (list.children.length && [...list.children].every(item => item.classList.contains("said"))) list.classList.add("said");
}

// Two figures of one slide come one after the other, each as large as it can be.
function figureByFigure() {
  for (const slide of leaves()) frames([...slide.querySelectorAll(".figure")].filter(f => !f.closest(".film")));
}

// Each covers the one before it.
function frames(parts, kind = "film") {
  if (parts.length < 2) return;
  const all = document.createElement("div");
  all.className = kind;
  parts[0].before(all);
  parts.forEach((part, k) => {
    const frame = document.createElement("div");
    frame.className = k ? "frame fragment" : "frame";
    frame.append(part);
    all.append(frame);
  });
}

// The bets come one by one, large.
function betByBet() {
  for (const slide of leaves()) frames([...slide.querySelectorAll("div.prediction")], "bets film");
}

// "4 minutes" in a note is the time for its slide and for those after it until the next such word: the speaker window's
// clock allots each slide its share. The hour is that of the core; what is marked as further is paced, but not counted.
function pace() {
  const all = [...leaves()];
  const minutes = note => +(note.textContent.match(/(\d+) minutes?/)?.[1] ?? 0);
  const said = all.map(slide => [...slide.querySelectorAll("aside.notes .jp-Cell")].reduce((sum, note) => sum + 60 * minutes(note), 0));
  const further = all.findIndex(slide => /^Further\b/.test(slide.querySelector("h2, h3")?.textContent ?? ""));
  const starts = all.map((_, k) => k).filter(k => k === 0 || said[k] || k === further);
  let total = 0;
  starts.forEach((start, n) => {
    const end = starts[n + 1] ?? all.length;
    if (further < 0 || start < further) total += said[start];
    for (let k = start; k < end; k++) all[k].dataset.timing = Math.max(10, Math.round(said[start] / (end - start)));
  });
  return total;
}

// A slide without a heading of its own says, small, whose section it belongs to.
function runningTitles() {
  let title = "";
  for (const slide of leaves()) {
    const heading = slide.querySelector("h1, h2, h3, h4");
    if (heading) {
      title = heading.textContent;
    } else if (title) {
      const line = document.createElement("p");
      line.className = "running";
      line.textContent = title;
      slide.prepend(line);
    }
  }
}

// A link between notebooks is one between decks here; one into the repository is words: a deck travels alone.
function linkDecks() {
  for (const link of document.querySelectorAll(".slides a[href]")) {
    const target = link.getAttribute("href");
    if (/\.ipynb(#|$)/.test(target))
      link.setAttribute("href", target.replace(/[^#]*\//, "").replace(/ipynb(#.*)?$/, "html"));
    else if (!/^(\w+:|#|[\w.]+\.html)/.test(target))
      link.replaceWith(...link.childNodes);
  }
}

// The last slide leads to the next deck.
function leadOn() {
  const onward = document.getElementById("onward");
  if (onward) [...leaves()].pop().append(onward.content.cloneNode(true));
}

function prepare() {
  keepStops();
  hoistNotes();
  noteWhatIsSaid();
  runningTitles();
  linkDecks();
  leadOn();
  if (!scrolling && !printing) {
    film();
    figureByFigure();
    betByBet();
  }
  // The room has bet by hand: on the wall an answer is an answer.
  for (const answer of document.querySelectorAll("details.prediction")) {
    answer.open = true;
    const title = answer.querySelector("summary");
    title.textContent = title.textContent.replace(/ \(.*\)/, "");  // how to bet in a notebook
  }
}

// On a phone a formula that is too wide is set smaller, as far as it can be read; the rest of it can be scrolled to. So
// can a table, whose long cells keep some width.
function fitToPhone() {
  for (const cell of document.querySelectorAll(".slides td")) {
    cell.classList.toggle("long", cell.textContent.length > 40);
    cell.classList.toggle("number", /^[\s\d.±e%+-]+$/.test(cell.textContent));
  }
  for (const formula of document.querySelectorAll(".slides mjx-container")) {
    const place = formula.closest("p, li, td, th, summary, h1, h2, h3, h4, section"), drawing = formula.querySelector("svg");
    const room = place.clientWidth - parseFloat(getComputedStyle(place).paddingLeft) - parseFloat(getComputedStyle(place).paddingRight);
    for (let size = 95; size >= 70 && drawing.getBoundingClientRect().width > room + 1; size -= 5) formula.style.fontSize = size + "%";
  }
}

// Slides one below the other, as a page: on a phone, or with their notes to be printed.
function scroll() {
  document.getElementById("reveal-css").remove();
  if (!handout) return fitToPhone();
  const page = document.createElement("style");
  page.textContent = "@page { size: A4; margin: 12mm; }";
  document.head.append(page);
  for (const hint of document.querySelectorAll(".slides details")) hint.open = true;
  for (const [k, slide] of leaves().entries()) {
    const sheet = document.createElement("article"), shot = document.createElement("div");
    sheet.className = "sheet";
    shot.className = "shot";
    shot.dataset.number = k + 1;
    slide.before(sheet);
    sheet.append(shot, ...slide.querySelectorAll(":scope > aside.notes"));
    shot.append(slide);
  }
}

// The keys beside reveal's own.
function keys() {
  Reveal.addKeyBinding({keyCode: 68, key: "D", description: "Dark or light"}, () =>
    document.documentElement.classList.toggle("dark"));
  Reveal.addKeyBinding({keyCode: 84, key: "T", description: "4:3 or 16:9"}, () => {
    asked.has("4:3") ? asked.delete("4:3") : asked.set("4:3", "");
    location.search = asked;
  });
}

function openDeck() {
  // Headless printing may never draw a frame, and reveal lays out its pages in frames.
  if (printing) window.requestAnimationFrame = done => setTimeout(done, 0);
  prepare();
  // The speaker view has no style for the copy of a formula that screen readers read: there it would stand twice.
  document.querySelectorAll("aside.notes mjx-assistive-mml").forEach(copy => copy.remove());
  if (!scrolling || handout) fit();
  if (scrolling) return scroll();
  Reveal.initialize({
    width: 1280, height: HEIGHT, margin: 0, center: false, hash: true, slideNumber: "c/t", transition: "none",
    navigationMode: "linear",  // the right arrow reaches every slide
    totalTime: pace(), scrollActivationWidth: 0,  // a phone has a view of its own, set in the size of its letters
    pdfSeparateFragments: false, pdfMaxPagesPerSlide: 1, plugins: [RevealNotes],
  }).then(keys);
}
