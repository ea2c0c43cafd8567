import type { Command } from 'commander';
import { UsageError } from '../errors.ts';
import { write } from '../io.ts';
import { type Environment, examples, withGlobals } from '../session.ts';

/** `bayctl completion`. */
export function register(parent: Command, environment: Environment): void {
  const command = parent
    .command('completion')
    .description('print a script that completes words in your shell: commands, flags, kinds, and the names of objects')
    .argument('<shell>', 'bash, zsh or fish')
    .action(async (shell: string) => {
      const script = Object.hasOwn(scripts, shell) ? scripts[shell] : undefined;
      if (script === undefined)
        throw new UsageError(`there is no completion for "${shell}", but for ${Object.keys(scripts).join(', ')}`);
      await write(environment.io.stdout, script);
    });
  examples(
    withGlobals(command),
    'source <(bayctl completion bash)',
    'bayctl completion zsh > ~/.zfunc/_bayctl',
    'bayctl completion fish > ~/.config/fish/completions/bayctl.fish',
  );
}

/** `bayctl __complete -- WORD…` prints what the last word may become, one on a line, with a tab before its description. */
const scripts: Readonly<Record<string, string>> = {
  bash: `# bash completion for bayctl
_bayctl() {
  # Bash takes "--flag=value" apart at its word breaks; put it together again.
  local words=() word i current reply
  for ((i = 1; i <= COMP_CWORD; i++)); do
    word=\${COMP_WORDS[i]}
    if ((\${#words[@]} > 0)) && { [[ $word == [=:] ]] || [[ \${COMP_WORDS[i - 1]} == [=:] ]]; }; then
      words[\${#words[@]} - 1]+=$word
    else
      words+=("$word")
    fi
  done
  current=\${words[\${#words[@]} - 1]}
  COMPREPLY=()
  while IFS=$'\\t' read -r reply _; do
    [[ $reply == "$current"* ]] || continue
    # Readline replaces only what comes after the last word break.
    [[ $current == *[=:]* ]] && reply=\${reply#"\${current%"\${current##*[=:]}"}"}
    COMPREPLY+=("$reply")
  done < <("\${COMP_WORDS[0]}" __complete -- "\${words[@]}" 2>/dev/null)
  if [[ \${#COMPREPLY[@]} -eq 1 && \${COMPREPLY[0]} == *[/=] ]]; then compopt -o nospace 2>/dev/null; fi
}
complete -o default -F _bayctl bayctl
`,
  zsh: `#compdef bayctl
# zsh completion for bayctl
_bayctl() {
  local -a replies
  local line word description
  while IFS= read -r line; do
    word=\${line%%$'\\t'*}
    description=\${line#*$'\\t'}
    if [[ $line == *$'\\t'* && -n $description ]]; then
      replies+=("\${word//:/\\\\:}:$description")
    else
      replies+=("\${word//:/\\\\:}")
    fi
  done < <("\${words[1]}" __complete -- "\${(@)words[2,CURRENT]}" 2>/dev/null)
  if (( \${#replies} )); then
    _describe -V bayctl replies
  else
    _files
  fi
}
if [[ $zsh_eval_context == *loadautofunc* ]]; then
  _bayctl "$@"
else
  compdef _bayctl bayctl
fi
`,
  fish: `# fish completion for bayctl
function __bayctl_complete
    set -l words (commandline -opc) (commandline -ct)
    $words[1] __complete -- $words[2..-1] 2>/dev/null
end
complete -c bayctl -e
complete -c bayctl -f -k -a '(__bayctl_complete)'
complete -c bayctl -n '__fish_seen_subcommand_from apply create delete diff' -s f -l filename -r -F
`,
};
