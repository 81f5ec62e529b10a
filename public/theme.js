// Before the first paint, so that a page set to dark never flashes. settings.svelte.ts does the rest.
try {
  document.documentElement.dataset.theme = localStorage.getItem('stillroom.theme') ?? 'system';
} catch {
  // Storage may be forbidden: the system's theme then holds.
}
