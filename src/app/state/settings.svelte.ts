/** What a person sets for the page itself: language and light. Kept in localStorage; no run depends on it. */
import { en, type Messages } from '../messages/en.ts';
import { zh } from '../messages/zh.ts';

export type Language = 'en' | 'zh';
export type Theme = 'system' | 'light' | 'dark';

const CATALOGUES: Record<Language, Messages> = { en, zh };

function kept<T extends string>(key: string, allowed: readonly T[], otherwise: T): T {
  try {
    const value = localStorage.getItem(`stillroom.${key}`);
    return allowed.find((one) => one === value) ?? otherwise;
  } catch {
    return otherwise; // Storage may be forbidden; the page works without.
  }
}

function keep(key: string, value: string): void {
  try {
    localStorage.setItem(`stillroom.${key}`, value);
  } catch {
    // The choice then holds until the page is closed.
  }
}

const preferred: Language = navigator.languages.find((tag) => /^(en|zh)/i.test(tag))?.startsWith('zh') ? 'zh' : 'en';

let language = $state<Language>(kept('language', ['en', 'zh'], preferred));
let theme = $state<Theme>(kept('theme', ['system', 'light', 'dark'], 'system'));

export const settings = {
  get language() {
    return language;
  },
  set language(value: Language) {
    language = value;
    keep('language', value);
    document.documentElement.lang = value === 'zh' ? 'zh-Hans' : 'en';
  },
  get theme() {
    return theme;
  },
  set theme(value: Theme) {
    theme = value;
    keep('theme', value);
    document.documentElement.dataset['theme'] = value;
  },
};

/** The catalogue of the chosen language; read inside a component it follows the switch. */
export const t = (): Messages => CATALOGUES[language];

/** public/theme.js has done the same for the theme before the first paint. */
export function applySettings(): void {
  settings.language = language;
  settings.theme = theme;
}
