/** Models that the store keeps beside the runs, as the storage panel lists them. */
import { deleteModel as forget, listKept } from '../../store/space.ts';
import { Store } from '../../store/store.ts';

export interface KeptModel {
  readonly owner: string;
  readonly name: string;
  readonly bytes: number;
  readonly partial: boolean;
}

let store: Promise<Store> | undefined;
const opened = (): Promise<Store> => (store ??= Store.open());

export async function keptModels(): Promise<KeptModel[]> {
  const kept = await listKept(await opened());
  return kept
    .filter(({ owner }) => owner.startsWith('model:'))
    .map(({ owner, bytes, partial }) => ({ owner, name: owner.slice('model:'.length), bytes, partial }));
}

export const deleteModel = async (owner: string): Promise<void> => forget(await opened(), owner);
