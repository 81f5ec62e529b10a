/** Terms of the trade: the word as it stands in a sentence, and one sentence with an example behind it. */
export type TermName =
  'kl' | 'logits' | 'loss' | 'lora' | 'adapter' | 'temperature' | 'top_p' | 'topk' | 'checkpoint' | 'interval' | 'onnx';

type Terms = Readonly<Record<TermName, { readonly word: string; readonly about: string }>>;

export const TERMS: Record<'en' | 'zh', Terms> = {
  en: {
    kl: {
      word: 'KL',
      about:
        'How far the student’s expectation of the next word is from the teacher’s: 0 means the same; if the teacher is sure of “8” and the student gives it one chance in two, it is 0.69.',
    },
    logits: {
      word: 'logits',
      about:
        'The score a model gives every possible next word before choosing: after “7 + 8 = 1” a good teacher gives “5” by far the highest, and “4” still more than “cat”.',
    },
    loss: {
      word: 'loss',
      about:
        'The one number that training makes smaller: how surprised the student still is by the right words. Finding the right word with one chance in two costs 0.69, with certainty 0.',
    },
    lora: {
      word: 'LoRA',
      about:
        'Instead of all weights, two thin matrices beside each layer are trained: for a layer of 576 × 576 and rank 8 that is 9,216 numbers instead of 331,776.',
    },
    adapter: {
      word: 'adapter',
      about:
        'The small set of trained numbers that lies on top of a model that stays as it was: for a 135 M model often 2 MB, which can be merged into it or sent alone.',
    },
    temperature: {
      word: 'temperature',
      about:
        'Evens out a choice among words: at 1 as the model thinks, at 2 a word with 90% falls to about 75% beside one with 10%, near 0 always the likeliest.',
    },
    top_p: {
      word: 'top-p',
      about:
        'Only the likeliest words that together reach this share may be chosen: at 0.9 the unlikely last tenth never is.',
    },
    topk: {
      word: 'top-k',
      about:
        'Of all words in the vocabulary only the k likeliest are kept for a position: 32 of 49,152 usually hold more than 99% of the probability.',
    },
    checkpoint: {
      word: 'checkpoint',
      about:
        'Everything needed to go on exactly where it was, kept on this machine: after a power cut at step 128 the run goes on from, say, step 120 to the very same result.',
    },
    interval: {
      word: '95% interval',
      about:
        'Few test rows leave doubt: 48 right of 64 is 75%, and the true share is probably between 63% and 84%. Differences within it may be luck.',
    },
    onnx: {
      word: 'ONNX Runtime',
      about:
        'The engine that other pages and programs run models with; what it computes from the written file is compared, number by number, with what was trained.',
    },
  },
  zh: {
    kl: {
      word: 'KL',
      about: '学生对下一个词的预期离教师有多远：0 表示完全一样；如果教师确定是“8”，学生只给它一半的机会，就是 0.69。',
    },
    logits: {
      word: 'logits',
      about: '模型在选词之前给每个可能的词打的分：在“7 + 8 = 1”之后，好教师给“5”的分最高，而“4”也比“猫”高。',
    },
    loss: {
      word: '损失',
      about: '训练要减小的那个数：正确的词还让学生有多意外。对正确的词只有一半把握，代价是 0.69；完全确定则是 0。',
    },
    lora: {
      word: 'LoRA',
      about: '不训练全部权重，只训练每层旁边两个细长的矩阵：576 × 576 的层、秩 8，只有 9 216 个数，而不是 331 776 个。',
    },
    adapter: {
      word: '适配器',
      about: '训练出来的一小组数，叠在保持原样的模型上：135 M 的模型常常只要 2 MB，可以合并进去，也可以单独带走。',
    },
    temperature: {
      word: '温度',
      about: '让选词更平均：为 1 时照模型所想；为 2 时，90% 对 10% 的两个词变成约 75% 对 25%；接近 0 时总选最可能的。',
    },
    top_p: { word: 'top-p', about: '只在合起来达到这个比例的最可能的词里选：0.9 时，最不可能的那一成永远不会被选中。' },
    topk: {
      word: 'top-k',
      about: '词表里只为每个位置保留最可能的 k 个词：49 152 个里的 32 个，通常就占了 99% 以上的概率。',
    },
    checkpoint: {
      word: '检查点',
      about: '从原处继续所需的一切，存在这台机器上：第 128 步时断电，就从比如第 120 步接着算，结果一模一样。',
    },
    interval: {
      word: '95% 区间',
      about: '测题少，就有不确定：64 题对 48 题是 75%，真实比例大概在 63% 到 84% 之间。其中的差别可能只是运气。',
    },
    onnx: {
      word: 'ONNX Runtime',
      about: '别的网页和程序用来运行模型的引擎；它用写出的文件算出的数，与训练的结果逐个比较。',
    },
  },
};
