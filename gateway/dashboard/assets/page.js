// Charts that say what they show, and buttons that copy. Everything from outside is set as text, never as markup.
"use strict";
(() => {
  for (const picture of document.querySelectorAll("[data-plot]")) {
    const steps = [...picture.querySelectorAll(".step")];
    const says = document.getElementById(picture.getAttribute("aria-describedby"));
    const before = says.textContent;
    let at = -1;
    const show = (index) => {
      steps[at]?.classList.remove("at");
      at = index;
      steps[at]?.classList.add("at");
      says.textContent = steps[at]?.dataset.says ?? before;
    };
    // the browser's own tooltip would cover the neighbours
    for (const title of picture.querySelectorAll("title")) title.remove();
    picture.addEventListener("pointermove", (event) => {
      const step = event.target.closest(".step");
      if (step) show(steps.indexOf(step));
    });
    picture.addEventListener("pointerleave", () => show(document.activeElement === picture ? at : -1));
    picture.addEventListener("focus", () => show(at < 0 ? steps.length - 1 : at));
    picture.addEventListener("blur", () => show(-1));
    picture.addEventListener("keydown", (event) => {
      const last = steps.length - 1;
      const to = { ArrowLeft: Math.max(0, at - 1), ArrowRight: Math.min(last, at + 1), Home: 0, End: last }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      show(to);
    });
  }

  // On a phone a row is shown as a list of its cells: each takes its heading along.
  for (const table of document.querySelectorAll(".scroll > table")) {
    const headings = [...table.tHead.rows[0].cells].map((cell) => cell.textContent.trim());
    for (const row of table.tBodies[0].rows) {
      if (row.cells.length !== headings.length) continue;
      headings.forEach((heading, index) => { if (heading) row.cells[index].dataset.label = heading; });
    }
    table.classList.toggle("stacked", !table.closest("#live"));
  }

  for (const button of document.querySelectorAll("[data-copy]")) {
    const source = document.getElementById(button.dataset.copy);
    const said = button.textContent;
    button.hidden = false;
    button.addEventListener("click", async () => {
      const text = source.value ?? source.textContent;
      try {
        await navigator.clipboard.writeText(text);
        button.textContent = "Copied";
      } catch {
        // without TLS a browser has no clipboard for pages: the text is selected, for the keyboard
        if (source.select) source.select();
        else getSelection().selectAllChildren(source);
        button.textContent = document.execCommand("copy") ? "Copied" : "Selected: press Ctrl+C";
      }
      setTimeout(() => { button.textContent = said; }, 3000);
    });
  }
})();
