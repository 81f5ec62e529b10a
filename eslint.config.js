/** Lint: what TypeScript does not see. Layout is prettier's; the rooms' import direction is scripts/import-direction.mjs. */
import svelte from 'eslint-plugin-svelte';
import tseslint from 'typescript-eslint';
import { importDirection } from './scripts/import-direction.mjs';

export default tseslint.config(
  { ignores: ['dist/', '.cache/', 'out/', 'public/', 'src/app/paraglide/'] },
  { linterOptions: { reportUnusedDisableDirectives: 'error' } },
  ...tseslint.configs.recommended,
  ...svelte.configs['flat/recommended'],
  { files: ['**/*.svelte', '**/*.svelte.ts'], languageOptions: { parserOptions: { parser: tseslint.parser } } },
  {
    plugins: { house: { rules: { 'import-direction': importDirection } } },
    rules: {
      'house/import-direction': 'error',
      eqeqeq: ['error', 'always', { null: 'ignore' }],
      'prefer-const': 'error',
      'no-var': 'error',
      // TypeScript knows what is declared; eslint does not know the browser's or Node's globals.
      'no-undef': 'off',
      '@typescript-eslint/no-unused-vars': ['error', { argsIgnorePattern: '^_', varsIgnorePattern: '^_' }],
      '@typescript-eslint/consistent-type-imports': ['error', { disallowTypeAnnotations: false }],
    },
  },
);
