/**
 * Dynamic loss scaling, as torch.amp.GradScaler does it (Micikevicius et al. 2018, arXiv 1710.03740, §3.2): the loss is
 * multiplied by a power of two, so that small gradients do not vanish in 16 bits, and what is accumulated is divided by it. A
 * step whose gradients are not finite changes nothing and halves the scale; many good ones in a row double it.
 *
 * Dividing by a power of two is exact: where nothing vanished or overflowed, the bits do not depend on the scale.
 */
const INIT_SCALE = 65536;
const GROWTH_INTERVAL = 2000;
/** A loss scaled by less than this overflows by its activations, which no scale of the gradients makes smaller. */
const LEAST_SCALE = 1;

export class LossScaler {
  scale = INIT_SCALE;
  /** Steps that were left out: the schedule and the optimiser have not seen them. */
  skipped = 0;
  /** Good steps since the scale has last changed. */
  private growth_tracker = 0;

  /** @param finite whether the step's gradients are: it is done if so, and left out if not */
  update(finite: boolean): void {
    if (!finite) {
      this.scale /= 2;
      this.skipped++;
      this.growth_tracker = 0;
    } else if (++this.growth_tracker === GROWTH_INTERVAL) {
      this.scale *= 2;
      this.growth_tracker = 0;
    }
  }

  /** No smaller scale is going to help. */
  get exhausted(): boolean {
    return this.scale < LEAST_SCALE;
  }

  /** For a checkpoint. */
  get state(): Float32Array {
    return Float32Array.of(this.scale, this.growth_tracker, this.skipped);
  }

  set state([scale, growth_tracker, skipped]: ArrayLike<number> & Iterable<number>) {
    Object.assign(this, { scale, growth_tracker, skipped });
  }
}
