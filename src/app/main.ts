/** Where the page starts: settings first, then the screen, then what can wait (the adapter, kept runs, a shared recipe). */
import { mount } from 'svelte';
import App from './App.svelte';
import { begin } from './state/begin.svelte.ts';
import { lookAtDevice } from './state/device.svelte.ts';
import { noteFault, watchFaults } from './state/faults.svelte.ts';
import { mendLanguage } from './state/language.ts';
import { route } from './state/route.svelte.ts';
import { followBridge } from './state/runs.svelte.ts';
import { applySettings } from './state/settings.svelte.ts';
import './style.css';

watchFaults();
mendLanguage();
applySettings();
mount(App, { target: document.body });
void lookAtDevice();
// What a driven page can't do must reach the command line, which watches for errors that nobody caught.
if (route.bridge) void followBridge(route.bridge);
else void begin().catch(noteFault);
