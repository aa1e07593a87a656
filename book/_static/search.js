/* From a folder on disk a browser lets no page read another: search then shows titles without excerpts, and says so. */
if (location.protocol === "file:") {
  window.addEventListener("DOMContentLoaded", () => {
    DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
    const results = document.getElementById("search-results");
    if (!results) return;
    const note = document.createElement("p");
    note.className = "search-note";
    note.textContent =
      "Read from a folder on disk, the search finds words in all pages, but lists them by title only. " +
      "For excerpts, serve the folder: python3 -m http.server --directory _build/html";
    results.before(note);
  });
}
