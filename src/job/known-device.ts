/**
 * What was found out about the person's device, kept for the next time: whether it computes right, how fast, and which
 * kernels it runs fastest. Kept by adapter, driver and version, as far as WebGPU and the browser name them.
 */
import { Device } from '../engine/run/device.ts';
import type { Plan } from '../engine/plan/plan.ts';
import { selfTest } from '../engine/tune/self-test.ts';
import type { Speed } from '../engine/tune/speed.ts';
import { tune } from '../engine/tune/tuner.ts';
import type { Host } from './host.ts';

interface Knowledge {
  readonly subgroups: boolean;
  readonly flops_per_second: number;
  readonly speed: Speed;
  /** How much longer the last run's steps took than was foretold by that; absent before the first. */
  readonly pace?: number;
  /** The fastest variant by the key of a choice. */
  readonly tuning: Readonly<Record<string, string>>;
  /** Variants that gave wrong numbers. */
  readonly refused: readonly string[];
}

/** Milliseconds that measuring kernels may take. */
const BUDGET_MS = 3000;
/** And of what the run will take, at most this share. */
const SHARE = 0.05;
/** A laptop that slept through a run says nothing of its speed. */
const MOST_SURPRISE = 4;

/** A device that has passed its self-test, now or on an earlier day. */
export async function openKnownDevice(host: Host): Promise<Device> {
  const device = await Device.create(host.gpu);
  try {
    const known = (await remembered(host, device)) ?? (await firstSight(host, device));
    learn(device, known);
    return device;
  } catch (error) {
    device.destroy();
    throw error;
  }
}

/**
 * Measures the kernels of these plans of which nothing is known yet, where the run is long enough to be worth it. The bits of
 * a run do not depend on what is found.
 * @param flops of the whole run
 * @returns how many kernels have another variant now than the safe one
 */
export async function tuneFor(host: Host, device: Device, plans: readonly Plan[], flops: number): Promise<number> {
  const seconds = flops / device.flopsPerSecond;
  const known = await remembered(host, device);
  if (!known || 1000 * SHARE * seconds < BUDGET_MS) return 0;
  const { fastest, times, wrong } = await tune(device, plans, BUDGET_MS);
  const now: Knowledge = {
    ...known,
    tuning: { ...known.tuning, ...Object.fromEntries(fastest) },
    refused: [...new Set([...known.refused, ...wrong])],
  };
  await host.remembered.put(nameOf(host, device.adapter), now);
  learn(device, now);
  return [...times.values()].filter(({ safe, fastest }) => fastest < safe).length;
}

/** What an adapter was measured to do; undefined before its first run. */
export async function rememberedSpeed(
  host: Host,
  adapter: AdapterNames,
): Promise<(Speed & Pick<Knowledge, 'pace'>) | undefined> {
  const known = await rememberedOf(host, adapter);
  return known && { ...known.speed, pace: known.pace };
}

/** @param quotient of the seconds that a run's steps took and those that were foretold, by the pace of the time before */
export async function rememberPace(host: Host, adapter: AdapterNames, quotient: number): Promise<void> {
  const known = await rememberedOf(host, adapter);
  if (!known) return;
  const pace = (known.pace ?? 1) * Math.min(MOST_SURPRISE, Math.max(1 / MOST_SURPRISE, quotient));
  await host.remembered.put(nameOf(host, adapter), { ...known, pace });
}

async function firstSight(host: Host, device: Device): Promise<Knowledge> {
  const known = { ...(await selfTest(device)), tuning: {} };
  await host.remembered.put(nameOf(host, device.adapter), known);
  return known;
}

const remembered = (host: Host, device: Device): Promise<Knowledge | undefined> => rememberedOf(host, device.adapter);

/** What an earlier build kept without all that is measured now is measured anew. */
async function rememberedOf(host: Host, adapter: AdapterNames): Promise<Knowledge | undefined> {
  const known = (await host.remembered.get(nameOf(host, adapter))) as Partial<Knowledge> | undefined;
  return known?.speed && (known as Knowledge);
}

function learn(device: Device, { subgroups, flops_per_second, tuning, refused }: Knowledge): void {
  device.flopsPerSecond = flops_per_second;
  device.learn({ subgroups, tuning: new Map(Object.entries(tuning)), refused: new Set(refused) });
}

type AdapterNames = Pick<GPUAdapterInfo, 'vendor' | 'architecture' | 'device' | 'description'>;

function nameOf({ version, user_agent }: Host, { vendor, architecture, device, description }: AdapterNames): string {
  return ['device', version, user_agent, vendor, architecture, device, description].join('|');
}
