// Put before every other script of a deck under test: collects what goes wrong from the first line on.
window.problems = [];
addEventListener("error", event => {
  const source = event.target.src || event.target.href;
  problems.push(source ? `did not load: ${source.slice(0, 100)}` : `script error: ${event.message}`);
}, true);
addEventListener("unhandledrejection", event => problems.push(`unhandled rejection: ${event.reason}`));
console.error = (...words) => problems.push(`console.error: ${words.join(" ")}`);
// A window is never as narrow as a phone: the page is.
if (new URLSearchParams(location.search).has("scroll")) document.documentElement.style.maxWidth = "390px";
