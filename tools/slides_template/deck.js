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

// A slide: a section that holds no others.
const leaves = () => document.querySelectorAll(".slides section:not(:has(section))");

// Pictures give way: where a slide is too high, its figures shrink together, down to 240 px. Then the text does.
function fit() {
  document.body.classList.add("measuring");
  for (const slide of leaves()) {
    const images = [...slide.querySelectorAll(".figure img")];
    const share = images.length && Math.ceil((slide.scrollHeight - 700) / images.length);
    if (share > 0)
      for (const image of images) image.style.maxHeight = Math.max(240, image.offsetHeight - share) + "px";
  }
  // What is still too high is set smaller, in two sizes; the smaller one can be read from the back row, too.
  for (const size of ["tight", "tighter"])
    for (const slide of leaves())
      if (slide.scrollHeight > 716) slide.classList.add(size);
  document.body.classList.remove("measuring");
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

// "4 minutes" in the notes paces the speaker window; slides without such a word share what theirs leave.
function pace() {
  let total = 0;
  for (const slide of leaves()) {
    const minutes = slide.querySelector("aside.notes")?.textContent.match(/(\d+) minutes?/);
    if (!minutes) continue;
    slide.dataset.timing = 60 * minutes[1];
    total += 60 * minutes[1];
  }
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

// A link between notebooks is one between decks here.
function linkDecks() {
  for (const link of document.querySelectorAll('.slides a[href*=".ipynb"]'))
    link.setAttribute("href", link.getAttribute("href").replace(/[^#]*\//, "").replace(/ipynb(#.*)?$/, "html"));
}

// The last slide leads to the next deck.
function leadOn() {
  const onward = document.getElementById("onward");
  if (onward) [...leaves()].pop().append(onward.content.cloneNode(true));
}

function prepare() {
  hoistNotes();
  runningTitles();
  linkDecks();
  leadOn();
  // The room has bet by hand: on the wall an answer is an answer.
  for (const answer of document.querySelectorAll("details.prediction")) {
    answer.open = true;
    const title = answer.querySelector("summary");
    title.textContent = title.textContent.replace(/ \(.*\)/, "");  // how to bet in a notebook
  }
}

function openDeck() {
  // Headless printing may never draw a frame, and reveal lays out its pages in frames.
  if (/print-pdf/.test(location.search)) window.requestAnimationFrame = done => setTimeout(done, 0);
  // The speaker view has no style for the copy of a formula that screen readers read.
  document.querySelectorAll("aside.notes mjx-assistive-mml").forEach(copy => copy.remove());
  prepare();
  fit();
  Reveal.initialize({
    width: 1280, height: 720, margin: 0, center: false, hash: true, slideNumber: "c/t", transition: "none",
    navigationMode: "linear",  // the right arrow reaches every slide
    totalTime: pace(), scrollActivationWidth: 600,
    pdfSeparateFragments: false, pdfMaxPagesPerSlide: 1, plugins: [RevealNotes],
  });
}
