/**
 * Chrome takes `navigator.language` from the system, and says `en-US@posix` where that speaks "C", as servers and containers
 * do: no tag that Intl accepts. uPlot asks Intl for it as it loads, and the page would have no charts.
 */
export function mendLanguage(): void {
  try {
    new Intl.NumberFormat(navigator.language);
  } catch {
    Object.defineProperty(navigator, 'language', { value: 'en-US', configurable: true });
  }
}
