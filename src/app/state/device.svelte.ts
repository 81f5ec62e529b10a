/**
 * The graphics adapter as the browser names it, asked once and without a device: enough for the first sentence about what
 * this machine can do. What the engine measures comes with the run's events.
 */
export interface Device {
  readonly name: string;
  readonly software: boolean;
  /** Largest single buffer, bytes; the nearest that a browser says about GPU memory. */
  readonly maxBufferSize: number;
  readonly info: Record<string, string>;
  readonly limits: Record<string, number>;
  readonly features: readonly string[];
}

export type DeviceState = 'asking' | 'no-webgpu' | 'no-adapter' | Device;

let state = $state<DeviceState>('asking');
let space = $state<{ used: number; quota: number } | undefined>();

export const device = {
  get state() {
    return state;
  },
  /** The adapter, once it is known to be there. */
  get found(): Device | undefined {
    return typeof state === 'object' ? state : undefined;
  },
  /** What the browser lets this page keep on disk, bytes; its own estimate. */
  get space() {
    return space;
  },
};

export async function lookAtDevice(): Promise<void> {
  void measureSpace();
  if (!navigator.gpu) {
    state = 'no-webgpu';
    return;
  }
  const adapter = await navigator.gpu.requestAdapter({ powerPreference: 'high-performance' }).catch(() => null);
  state = adapter ? describe(adapter) : 'no-adapter';
}

export async function measureSpace(): Promise<void> {
  const estimate = await navigator.storage?.estimate().catch(() => undefined);
  if (estimate) space = { used: estimate.usage ?? 0, quota: estimate.quota ?? 0 };
}

function describe(adapter: GPUAdapter): Device {
  const { vendor, architecture, device: model, description } = adapter.info;
  const words = [description || model || [vendor, architecture].filter(Boolean).join(' ')].filter(Boolean);
  const limits: Record<string, number> = {};
  for (const name in adapter.limits) {
    const value = adapter.limits[name as keyof GPUSupportedLimits];
    if (typeof value === 'number') limits[name] = value;
  }
  const all = `${vendor} ${architecture} ${model} ${description}`;
  return {
    name: words[0] ?? '',
    software: adapter.info.isFallbackAdapter || /swiftshader|llvmpipe|lavapipe|software|basic render/i.test(all),
    maxBufferSize: adapter.limits.maxBufferSize,
    info: { vendor, architecture, device: model, description },
    limits,
    features: [...adapter.features].sort(),
  };
}
