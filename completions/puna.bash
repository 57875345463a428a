# bash completion for puna, printed by 'puna completions bash'.
_puna() {
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} command=${COMP_WORDS[1]}
    local IFS=$' \t\n'
    COMPREPLY=()
    if [ "$COMP_CWORD" -eq 1 ]; then
        COMPREPLY=($(compgen -W 'run map choose chat tokens embed nearest rerank render replay list ls show pull outdated push create cp rm verify gc du path cache export import bench config doctor serve start ps stop help version completions man --help --version' -- "$word"))
        return
    fi
    case $before in
        -o|--option) compopt -o nospace 2>/dev/null; COMPREPLY=($(compgen -W 'num_ctx= num_batch= num_gpu= main_gpu= use_mmap= use_mlock= adapter_scale= num_thread= draft_num_predict= num_keep= seed= num_predict= top_k= top_p= min_p= typical_p= repeat_last_n= temperature= repeat_penalty= presence_penalty= frequency_penalty= stop= reasoning_budget= parse_special=' -- "$word")); return ;;
        --access-log|--api-key-file|--attach|--continue|--file|--format|--grammar|--jinja|--locked|--messages|--record|--resume|--socket|--template|--tools|--transcript|-a|-f) COMPREPLY=($(compgen -f -- "$word")); return ;;
    esac
    local flags=
    case $command in
        run) flags='--system --messages --option --seed --temperature --num-predict --num-ctx --raw --overflow --think --hidethinking --attach --tools --tool-choice --format --schema --open --grammar --fields --extract --one-line --strip --stop --whole --json --deterministic --verbose --quiet --nowordwrap --transcript --continue --record --local --linger --host --keepalive --pull --insecure --dimensions --truncate --log --timeout --threads --nice --mem-max --lock --wait --skip --retry --no-cache --help' ;;
        map) flags='--prompt --jsonl --tsv --null --jobs --resume --choose --schema --open --format --grammar --system --option --seed --temperature --num-predict --num-ctx --overflow --json --host --quiet --timeout --threads --nice --mem-max --lock --wait --skip --retry --no-cache --help' ;;
        choose) flags='--question --status --sure --system --option --json --quiet --timeout --threads --nice --mem-max --lock --wait --skip --retry --no-cache --help' ;;
        chat) flags='--jsonl --system --messages --option --seed --temperature --num-predict --num-ctx --think --tools --tool-choice --format --schema --open --grammar --stop --transcript --continue --host --quiet --timeout --threads --nice --mem-max --lock --wait --skip --retry --no-cache --help' ;;
        tokens) flags='--ids --pieces --head --tail --split --json --help' ;;
        embed) flags='--f32 --dimensions --option --json --host --quiet --timeout --threads --nice --mem-max --lock --wait --skip --retry --no-cache --help' ;;
        nearest) flags='--top --option --json --host --quiet --timeout --threads --nice --mem-max --lock --wait --skip --retry --no-cache --help' ;;
        rerank) flags='--top --option --json --host --quiet --timeout --threads --nice --mem-max --lock --wait --skip --retry --no-cache --help' ;;
        render) flags='--messages --tools --system --option --think --raw --overflow --num-ctx --template --jinja --tokens --json --quiet --help' ;;
        replay) flags='--print --json --quiet --timeout --threads --nice --mem-max --lock --wait --skip --retry --no-cache --help' ;;
        list|ls) flags='--json --host --quiet --help' ;;
        show) flags='--json --verbose --modelfile --parameters --system --template --license --host --help' ;;
        pull) flags='--all --check --replace --name --limit-rate --locked --insecure --host --json --quiet --help' ;;
        outdated) flags='--insecure --json --quiet --help' ;;
        push) flags='--insecure --host --json --quiet --help' ;;
        create) flags='--file --link --quantize --requantize --host --quiet --help' ;;
        cp) flags='--host --help' ;;
        rm) flags='--force --host --help' ;;
        verify) flags='--repair --insecure --json --quiet --help' ;;
        gc) flags='--dry-run --older-than --json --quiet --help' ;;
        du) flags='--json --help' ;;
        path) flags='--loaded --projector --json --help' ;;
        cache) flags='--json --help' ;;
        export) flags='--help' ;;
        import) flags='--quiet --help' ;;
        bench) flags='--prompt --num-predict --runs --tune --option --json --help' ;;
        config) flags='--json --help' ;;
        doctor) flags='--json --host --help' ;;
        serve|start) flags='--host --socket --no-socket --no-tcp --api-key-file --open --deterministic --access-log --sandbox --linger --log --quiet --help' ;;
        ps) flags='--json --host --help' ;;
        stop) flags='--host --quiet --help' ;;
        help) flags='--help' ;;
        version) flags='--json --help' ;;
        completions) flags='--help' ;;
        man) flags='--help' ;;
    esac
    if [[ $word == -* ]]; then
        COMPREPLY=($(compgen -W "$flags" -- "$word"))
        return
    fi
    case $command in
        run) COMPREPLY=($(compgen -W "$(puna ls 2>/dev/null | cut -f1)" -- "$word") $(compgen -f -- "$word")) ;;
        map) COMPREPLY=($(compgen -W "$(puna ls 2>/dev/null | cut -f1)" -- "$word") $(compgen -f -- "$word")) ;;
        choose) COMPREPLY=($(compgen -W "$(puna ls 2>/dev/null | cut -f1)" -- "$word") $(compgen -f -- "$word")) ;;
        chat) COMPREPLY=($(compgen -W "$(puna ls 2>/dev/null | cut -f1)" -- "$word") $(compgen -f -- "$word")) ;;
        tokens) COMPREPLY=($(compgen -W "$(puna ls 2>/dev/null | cut -f1)" -- "$word") $(compgen -f -- "$word")) ;;
        embed) COMPREPLY=($(compgen -W "$(puna ls 2>/dev/null | cut -f1)" -- "$word") $(compgen -f -- "$word")) ;;
        nearest) COMPREPLY=($(compgen -W "$(puna ls 2>/dev/null | cut -f1)" -- "$word") $(compgen -f -- "$word")) ;;
        rerank) COMPREPLY=($(compgen -W "$(puna ls 2>/dev/null | cut -f1)" -- "$word") $(compgen -f -- "$word")) ;;
        render) COMPREPLY=($(compgen -W "$(puna ls 2>/dev/null | cut -f1)" -- "$word") $(compgen -f -- "$word")) ;;
        list|ls) COMPREPLY=($(compgen -W "$(puna ls 2>/dev/null | cut -f1)" -- "$word") $(compgen -f -- "$word")) ;;
        show) COMPREPLY=($(compgen -W "$(puna ls 2>/dev/null | cut -f1)" -- "$word") $(compgen -f -- "$word")) ;;
        pull) COMPREPLY=($(compgen -W "$(puna ls 2>/dev/null | cut -f1)" -- "$word") $(compgen -f -- "$word")) ;;
        outdated) COMPREPLY=($(compgen -W "$(puna ls 2>/dev/null | cut -f1)" -- "$word") $(compgen -f -- "$word")) ;;
        push) COMPREPLY=($(compgen -W "$(puna ls 2>/dev/null | cut -f1)" -- "$word") $(compgen -f -- "$word")) ;;
        create) COMPREPLY=($(compgen -W "$(puna ls 2>/dev/null | cut -f1)" -- "$word") $(compgen -f -- "$word")) ;;
        cp) COMPREPLY=($(compgen -W "$(puna ls 2>/dev/null | cut -f1)" -- "$word") $(compgen -f -- "$word")) ;;
        rm) COMPREPLY=($(compgen -W "$(puna ls 2>/dev/null | cut -f1)" -- "$word") $(compgen -f -- "$word")) ;;
        verify) COMPREPLY=($(compgen -W "$(puna ls 2>/dev/null | cut -f1)" -- "$word") $(compgen -f -- "$word")) ;;
        path) COMPREPLY=($(compgen -W "$(puna ls 2>/dev/null | cut -f1)" -- "$word") $(compgen -f -- "$word")) ;;
        export) COMPREPLY=($(compgen -W "$(puna ls 2>/dev/null | cut -f1)" -- "$word") $(compgen -f -- "$word")) ;;
        bench) COMPREPLY=($(compgen -W "$(puna ls 2>/dev/null | cut -f1)" -- "$word") $(compgen -f -- "$word")) ;;
        stop) COMPREPLY=($(compgen -W "$(puna ls 2>/dev/null | cut -f1)" -- "$word") $(compgen -f -- "$word")) ;;
        help) COMPREPLY=($(compgen -W 'run map choose chat tokens embed nearest rerank render replay list ls show pull outdated push create cp rm verify gc du path cache export import bench config doctor serve start ps stop help version completions man' -- "$word")) ;;
        completions) COMPREPLY=($(compgen -W 'bash zsh fish' -- "$word")) ;;
        man) COMPREPLY=($(compgen -W 'run map choose chat tokens embed nearest rerank render replay list ls show pull outdated push create cp rm verify gc du path cache export import bench config doctor serve start ps stop help version completions man' -- "$word")) ;;
    esac
}
COMP_WORDBREAKS=${COMP_WORDBREAKS//:/}
complete -F _puna puna
