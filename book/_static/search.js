/* From a folder on disk a browser lets no page read another: search then shows titles without excerpts, and says so. */
if (location.protocol === "file:") {
  DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
  window.addEventListener("DOMContentLoaded", () => {
    const results = document.getElementById("search-results");
    if (!results) return;
    const note = document.createElement("p");
    note.className = "search-note";
    note.textContent =
      "Read from a folder on disk, the search looks through all words of all pages, but shows titles only. " +
      "For excerpts, serve the folder: python3 -m http.server --directory _build/html";
    results.before(note);
  });
}
