/** Where the page starts: settings first, then the screen, then what can wait (the adapter, kept runs, a shared recipe). */
import { mount } from 'svelte';
import App from './App.svelte';
import { lookAtDevice } from './state/device.svelte.ts';
import { watchFaults } from './state/faults.svelte.ts';
import { route } from './state/route.svelte.ts';
import { followBridge } from './state/runs.svelte.ts';
import { applySettings } from './state/settings.svelte.ts';
import './style.css';

watchFaults();
applySettings();
mount(App, { target: document.body });
void lookAtDevice();
if (route.bridge) void followBridge(route.bridge);
